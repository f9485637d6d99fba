"""Sphinx configuration.  Nothing is fetched: no intersphinx, a theme that comes with Sphinx."""

import importlib.metadata

project = "Gnocchi"
copyright = "Gnocchi contributors"
release = importlib.metadata.version("gnocchi")
version = ".".join(release.split(".")[:2])

extensions = ["oslo_config.sphinxext", "oslo_policy.sphinxext"]
nitpicky = True
# Types that option and policy directives mention; they have no documents here.
nitpick_ignore_regex = [(r"oslo\..*", r".*")]

html_theme = "alabaster"
html_theme_options = {"description": "Multi-tenant time-series database", "page_width": "62em",
                      "fixed_sidebar": True}
html_show_sourcelink = False
html_copy_source = False
