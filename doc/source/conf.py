"""Sphinx configuration.  Nothing is fetched: no intersphinx, a theme that comes with Sphinx."""

import importlib.metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "ext"))

project = "Gnocchi"
copyright = "Gnocchi contributors"
release = importlib.metadata.version("gnocchi")
version = ".".join(release.split(".")[:2])

extensions = ["executed", "oslo_config.sphinxext", "oslo_policy.sphinxext"]
nitpicky = True
# Types that option and policy directives mention; they have no documents here.
nitpick_ignore_regex = [(r"oslo\..*", r".*")]

html_theme = "alabaster"
html_theme_options = {"description": "Multi-tenant time-series database", "page_width": "62em",
                      "fixed_sidebar": True}
html_show_sourcelink = False
html_copy_source = False
