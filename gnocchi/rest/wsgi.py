"""The deployable object under the name that `gnocchi-api` of earlier releases gave to uWSGI."""

from gnocchi.wsgi.api import application

__all__ = ["application"]
