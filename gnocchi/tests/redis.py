"""Redis as operators run it: behind TLS and a password, or several of them that sentinels look after."""

import contextlib
import pathlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator

import redis

from gnocchi.tests.coordination import Server, asks
from gnocchi.tests.databases import need

PASSWORD = "s3cret/%"
QUOTED_PASSWORD = "s3cret%2F%25"
MASTER = "mymaster"


def make_certificate(directory: pathlib.Path) -> tuple[str, str]:
    """Make a certificate for 127.0.0.1, which is its own authority; return its file and that of the key."""
    certificate, key = str(directory / "certificate.pem"), str(directory / "key.pem")
    subprocess.run([need(shutil.which("openssl"), "OpenSSL"), "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                    "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
                    "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return certificate, key


def make_tls_redis(certificate: str, key: str) -> Server:
    """Make a Redis that speaks TLS only and wants PASSWORD; it keeps everything."""
    program = need(shutil.which("redis-server"), "Redis")

    def answers(port: int) -> bool:
        context = ssl.create_default_context(cafile=certificate)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as plain, \
                context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"-NOAUTH")
        return False

    return Server(lambda port, directory: [
        program, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "",
        "--appendonly", "yes", "--appendfsync", "always", "--requirepass", PASSWORD, "--tls-cert-file", certificate,
        "--tls-key-file", key, "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no"], answers)


class Watched:
    """A master, a replica, and a sentinel that lets the one take the other's place."""

    def __init__(self, master: Server, replica: Server, sentinel: Server) -> None:
        self.master = master
        self.replica = replica
        self.sentinel = sentinel

    def url(self, **query: object) -> str:
        rest = "".join(f"&{key}={value}" for key, value in query.items())
        # The first sentinel is not there.
        return f"redis://127.0.0.1:1?sentinel={MASTER}&sentinel_fallback=127.0.0.1:{self.sentinel.port}{rest}"

    def replicate(self) -> bool:
        """Return whether the replica has all that was written."""
        return bool(redis.Redis(port=self.master.port).wait(1, 1000))


@contextlib.contextmanager
def watched_redis() -> Iterator[Watched]:
    program = need(shutil.which("redis-server"), "Redis")
    asked = asks(b"PING\r\n", b"+PONG")

    def make(*options: str) -> Server:
        return Server(lambda port, directory: [
            program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "", "--appendonly",
            "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0", *options], asked)

    def sentinel_command(port: int, directory: pathlib.Path) -> list[str]:
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"dir {directory}\nport {port}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 2000\n")
        return [program, str(configuration), "--sentinel"]

    with contextlib.ExitStack() as started:
        def start(server: Server) -> Server:
            started.callback(server.remove)
            server.start()
            return server

        master = start(make())
        replica = start(make("--replicaof", "127.0.0.1", str(master.port)))
        yield Watched(master, replica, start(Server(sentinel_command, asked)))
