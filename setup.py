"""Packaging.  What setup.cfg cannot say: top-level `alembic/` is installed as gnocchi.indexer.migrations."""

import setuptools

setuptools.setup(
    packages=setuptools.find_packages(include=["gnocchi", "gnocchi.*"])
    + ["gnocchi.indexer.migrations", "gnocchi.indexer.migrations.versions"],
    package_dir={"gnocchi.indexer.migrations": "alembic"},
)
