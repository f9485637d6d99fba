"""URLs of Redis against real servers: password and TLS, sentinels, sockets, and what is wrong with them."""

import shutil

import pytest

from gnocchi.common.redis import make_client, unavailable
from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration
from gnocchi.tests.coordination import Server, asks
from gnocchi.tests.databases import find_free_port, need
from gnocchi.tests.faulty import faulty
from gnocchi.tests.redis import make_certificate

#: What any server says, also one that wants a password.
ANSWERS = asks(b"PING\r\n", b"")


@pytest.fixture
def start(tmp_path):
    """Starts a Redis with options, or as a sentinel."""
    started = []

    def start(*options, configuration=None, answers=ANSWERS):
        program = need(shutil.which("redis-server"), "Redis")

        def command(port, directory):
            if configuration is None:
                return [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "",
                        *options]
            path = tmp_path / "sentinel.conf"
            path.write_text(configuration(port, directory))
            return [program, str(path), "--sentinel"]
        server = Server(command, answers)
        started.append(server)
        server.start()
        return server
    yield start
    for server in started:
        server.remove()


def test_password_and_tls(start, tmp_path):
    certificate, key = make_certificate(tmp_path)
    plain = start("--requirepass", "s3cret/%")
    assert make_client(f"redis://:s3cret%2F%25@127.0.0.1:{plain.port}?db=3").ping()
    with pytest.raises(BackendUnavailable, match="redis: cannot ask") as raised, unavailable("ask"):
        make_client(f"redis://:wrong@127.0.0.1:{plain.port}").ping()
    assert "wrong" not in str(raised.value)
    port = find_free_port()
    start("--tls-port", str(port), "--requirepass", "s3cret", "--tls-cert-file", certificate, "--tls-key-file", key,
          "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no")
    url = f"redis://:s3cret@127.0.0.1:{port}"
    assert make_client(f"{url}?ssl=true&ssl_ca_certs={certificate}").ping()
    with pytest.raises(BackendUnavailable), unavailable("ask"):
        make_client(f"{url}?ssl=true").ping()


def test_sentinel(start, redis_server):
    """The master is found through the first sentinel that answers."""
    sentinel = start(configuration=lambda port, directory: (
        f"dir {directory}\nport {port}\nbind 127.0.0.1\n"
        f"sentinel monitor mymaster 127.0.0.1 {redis_server.port} 1\n"))
    url = f"redis://127.0.0.1:1?sentinel=mymaster&sentinel_fallback=127.0.0.1:{sentinel.port}"
    client = make_client(url)
    client.set("a", b"x")
    assert make_client(f"redis://127.0.0.1:{redis_server.port}").get("a") == b"x"
    with pytest.raises(BackendUnavailable, match="'another': no sentinel knows it|'another': .*[Cc]onn.*") as raised, \
            unavailable("ask"):
        make_client(url.replace("mymaster", "another")).ping()
    assert len(str(raised.value)) < 200


def test_socket(start, tmp_path):
    path = tmp_path / "redis.sock"
    start("--unixsocket", str(path))
    assert make_client(f"redis://{path}?db=2").ping()


@pytest.mark.parametrize(("url", "reason"), [
    ("http://s3cret@localhost", "scheme"), ("redis://:s3cret@localhost:port", "[Pp]ort"),
    ("redis://:s3cret/word@localhost", "percent"), ("redis://:s3cret@[localhost", "not valid"),
    ("redis://:s3cret@localhost?db=first", "db: .*first"), ("redis://:s3cret@localhost?ssl=perhaps", "ssl: .*perhaps"),
    *[(f"redis://:s3cret@localhost?socket_timeout={value}", f"socket_timeout: {value} is not between")
      for value in ("0", "-1", "nan", "inf")],
    ("redis://:s3cret@localhost?sentinel=m&sentinel_fallback=nowhere", "redis_url: sentinel_fallback")])
def test_wrong_urls(url, reason):
    """The reason is told, the password is not."""
    with pytest.raises(InvalidConfiguration, match=reason) as raised:
        make_client(url)
    assert "s3cret" not in str(raised.value)


def test_unknown_keys_do_not_count():
    make_client("redis://localhost?colour=red")


@pytest.mark.parametrize(("key", "tries"), [("", 1), ("&retry_on_timeout=true", 2)])
def test_silent_server(redis_server, key, tries):
    """A server that accepts and never answers is away after one timeout, and there again without a new client."""
    with faulty(redis_server.port) as proxy:
        client = make_client(f"redis://127.0.0.1:{proxy.port}?socket_timeout=0.2{key}")
        assert client.ping()
        proxy.swallow()
        accepted = proxy.accepted
        with pytest.raises(BackendUnavailable, match="redis: cannot ask"), unavailable("ask"):
            client.ping()
        # The first one was on the connection that was open.
        assert tries - 1 == proxy.accepted - accepted
        proxy.pass_on()
        assert client.ping()


def test_broken_connections(redis_server):
    """A connection that breaks, as all do when the server is started anew, is replaced unnoticed."""
    with faulty(redis_server.port) as proxy:
        client = make_client(f"redis://127.0.0.1:{proxy.port}")
        assert client.ping()
        proxy.cut_after(0)
        assert client.ping()
        proxy.reset()
        with pytest.raises(BackendUnavailable, match="redis: cannot ask"), unavailable("ask"):
            client.ping()
        proxy.pass_on()
        assert client.ping()
