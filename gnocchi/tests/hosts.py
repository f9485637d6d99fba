"""Hosts with addresses of their own on this machine: network namespaces, each on a cable (veth) to the one of the test.

    namespace of the test                       namespace of host n
    server address (on all cables), .4n+1 ───── .4n+2, everything else by way of .4n+1

They need privileges.  Nothing has a name that outlives the test: a namespace goes, and its cable with it, when its last
process has ended, and all of these end with the test.
"""

import contextlib
import ipaddress
import os
import subprocess
import time
from collections.abc import Iterator

from gnocchi.tests.databases import DEADLINE_S, die_with_parent

#: Kept for tests of networks (RFC 2544).  A test process takes 16 addresses that depend on its number.
_NETWORK = int(ipaddress.ip_address("198.18.0.0"))
_ADDRESSES = 16
HOSTS_MAX = 3


class NotPermitted(Exception):
    """This process may not make hosts."""


class Host:
    """A namespace.  address : str, where its servers are reached."""

    def __init__(self, number: int) -> None:
        first = _NETWORK + os.getpid() % 4096 * _ADDRESSES
        self.server_address = str(ipaddress.ip_address(first + _ADDRESSES - 1))
        self._gateway, self.address = (str(ipaddress.ip_address(first + 4 * number + place)) for place in (1, 2))
        self._cable = f"g{os.getpid()}h{number}"
        try:
            self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.DEVNULL,
                                            preexec_fn=die_with_parent)
        except OSError as e:
            raise NotPermitted(str(e)) from e
        try:
            self._await_namespace()
            _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns",
                 str(self._holder.pid))
            _run("ip", "address", "add", f"{self._gateway}/30", "dev", self._cable)
            _run("ip", "address", "add", f"{self.server_address}/32", "dev", self._cable)
            _run("ip", "link", "set", self._cable, "up")
            _run(*self.prefix, "ip", "link", "set", "lo", "up")
            _run(*self.prefix, "ip", "address", "add", f"{self.address}/30", "dev", "eth0")
            self.plug()
        except BaseException:
            self.remove()
            raise

    @property
    def prefix(self) -> list[str]:
        """What a command begins with that is to run there, as the process that is started."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def _await_namespace(self) -> None:
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + DEADLINE_S
        while self._holder.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{self._holder.pid}/ns/net") != own:
                    return
            time.sleep(0.005)
        raise NotPermitted("unshare")

    def plug(self) -> None:
        """Connect it."""
        _run(*self.prefix, "ip", "link", "set", "eth0", "up")
        _run(*self.prefix, "ip", "route", "replace", "default", "via", self._gateway)

    def unplug(self) -> None:
        """Pull its cable: what is under way either way is lost, without a word to connections that are open."""
        _run(*self.prefix, "ip", "link", "set", "eth0", "down")

    def remove(self) -> None:
        self._holder.kill()
        self._holder.wait()
        with contextlib.suppress(NotPermitted):     # Gone already; or the system takes its time.
            _run("ip", "link", "delete", self._cable)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError as e:
        raise NotPermitted(f"{command[0]}: {e}") from e
    if done.returncode:
        raise NotPermitted(f"{' '.join(command)}: {done.stdout}")


@contextlib.contextmanager
def make_hosts(count: int) -> Iterator[list[Host]]:
    """Give hosts; none where that is not permitted, which is printed."""
    assert count <= HOSTS_MAX
    with contextlib.ExitStack() as made:
        hosts: list[Host] = []
        try:
            for number in range(count):
                hosts.append(Host(number))
                made.callback(hosts[-1].remove)
        except NotPermitted as e:
            print(f"no hosts of their own: {e}")
            made.close()
            hosts = []
        yield hosts
