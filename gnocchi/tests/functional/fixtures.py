"""Gabbi fixtures: each YAML file gets a fresh, empty service."""

from gabbi import driver, fixture, pytester

from gnocchi.tests.functional.service import ApiService

PREFIX = "/gnocchi"
MAX_LIMIT = 7


_get_cleanname = pytester.get_cleanname


def get_cleanname(item):
    """Gabbi's plugin takes every test of the run whose id holds a colon for one of its own."""
    name = _get_cleanname(item)
    return name if getattr(item, "function", None) is driver.test_pytest else name.replace(":", "")


pytester.get_cleanname = get_cleanname


class CurrentPort:
    """The port of the service that the file at hand talks to.  Gabbi wants it when tests are collected."""

    service: ApiService | None = None

    def __int__(self) -> int:
        assert self.service is not None, "the YAML file names no fixture"
        return self.service.port

    def __str__(self) -> str:
        return str(int(self))


PORT = CurrentPort()


class BasicService(fixture.GabbiFixture):
    """Authentication by user name, behind a proxy, pages of 7."""

    options: dict[str, dict[str, object]] = {}

    def start_fixture(self) -> None:
        api = {"max_limit": MAX_LIMIT, "enable_proxy_headers_parsing": True}
        options = {"api": api, "cors": {"allowed_origin": "http://valid.example.com"}}
        for section, values in self.options.items():
            options.setdefault(section, {}).update(values)
        PORT.service = ApiService(options, PREFIX)
        PORT.service.start()

    def stop_fixture(self) -> None:
        assert PORT.service is not None
        PORT.service.stop()
        PORT.service = None
