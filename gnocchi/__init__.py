"""Gnocchi: a multi-tenant time-series database with a resource index and a REST API."""
