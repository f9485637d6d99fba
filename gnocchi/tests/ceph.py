"""A real Ceph of one monitor and one OSD for tests, and its gateway, which speaks S3 and Swift.

Started once per test process that asks for it, within a second; each module has a pool of its own.
"""

import contextlib
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from gnocchi.tests.coordination import Server
from gnocchi.tests.databases import START_TIMEOUT_S, _fast_directory, die_with_parent, find_free_port, need
from gnocchi.tests.modules import need_module

#: What the gateway's users are called and know.
ACCESS_KEY, SECRET_KEY = "GNOCCHIACCESS", "gnocchi-secret-of-s3"
SWIFT_USER, SWIFT_KEY = "gnocchi:swift", "gnocchi-secret-of-swift"

#: Short delays make the OSD and each pool ready at once instead of after seconds; a monitor alone needs no manager.
_CONF = """[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}/0
ms bind msgr1 = false
ms bind port min = {first}
ms bind port max = {last}
auth cluster required = {auth}
auth service required = {auth}
auth client required = {auth}
auth allow insecure global id reclaim = false
mon data = {d}/mon
osd data = {d}/osd
run dir = {d}
admin socket = {d}/$name.$pid.asok
pid file = {d}/$name.pid
log file = {d}/$name.log
mon cluster log file = {d}/cluster.log
crash dir = {d}/crash
osd objectstore = {store}
memstore device bytes = 2147483648
bluestore block size = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
osd crush initial weight = 1
osd class load list = *
osd class default list = *
mon allow pool delete = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mon data avail warn = 2
mon data avail crit = 1
mon osd full ratio = 0.96
mon osd backfillfull ratio = 0.95
mon osd nearfull ratio = 0.94
paxos propose interval = 0.05
paxos min wait = 0.01
mon lease = 1
osd boot notify = true
osd op num shards = 2
osd op num threads per shard = 1
ms async op threads = 1
osd numa auto affinity = false
# A gateway asks for encryption otherwise, which there is none of.
ms mon client mode = {mode}
rgw enable apis = s3, swift, swift_auth, admin
rgw thread pool size = 32
rgw num rados handles = 1
rgw rados pool pg num min = 1
rgw run sync thread = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw dynamic resharding = false
rgw override bucket index max shards = 1
rgw init timeout = 30
rgw swift account in url = true
"""

#: Sends each line of JSON to the monitor and prints the answer.  Debian's `rados` is for its own Python only, and the
#: `ceph` command takes a third of a second.
_MONITOR_CLIENT = """
import json, rados, sys
cluster = rados.Rados(conffile=sys.argv[1])
cluster.connect(timeout=60)
print(json.dumps([0, "", "connected"]), flush=True)
for line in sys.stdin:
    code, answer, text = cluster.mon_command(line, b"")
    print(json.dumps([code, answer.decode(), text]), flush=True)
"""


def has_rados() -> bool:
    return importlib.util.find_spec("rados") is not None


def need_rados() -> None:
    """Skip where this Python has no module `rados`, or fail (see `need`) where Debian's would do for it."""
    need_module("rados", "rados for this Python (doc/source/ceph.rst)")


class Ceph:
    """A cluster in a directory of its own, which is deleted with it.

    Parameters
    ----------
    store : str
        `memstore`, or `bluestore`, whose OSD survives a restart and which takes seconds more.
    cephx : bool
        Whether clients have to have keys.

    Attributes
    ----------
    config : pathlib.Path
        A `ceph.conf` for daemons and administrators.
    client_config : pathlib.Path
        A `ceph.conf` that names the monitor, and no keys.
    monitor, osd : Server
    """

    def __init__(self, store: str = "memstore", *, cephx: bool = False) -> None:
        self._programs = {name: need(shutil.which(name), "Ceph") for name in (
            "ceph-mon", "ceph-osd", "monmaptool", "ceph-authtool")}
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="g-ceph-", dir=_fast_directory()))
        self.config, self.client_config = self.directory / "ceph.conf", self.directory / "client.conf"
        self.cephx = cephx
        self._fsid, self._osd_uuid = str(uuid.uuid4()), str(uuid.uuid4())
        self._booted = 0
        self._client: subprocess.Popen | None = None
        foreground = ["-c", str(self.config), "-f", "-i"]
        self.monitor = Server(lambda port, _: [self._programs["ceph-mon"], *foreground, "a"], lambda port: True)
        self.osd = Server(lambda port, _: [self._programs["ceph-osd"], *foreground, "0"],
                          lambda port: self._has_booted())
        first, auth = find_free_port(), "cephx" if cephx else "none"
        self.config.write_text(_CONF.format(
            fsid=self._fsid, port=self.monitor.port, first=first, last=first + 40, d=self.directory, store=store,
            auth=auth, mode="secure" if cephx else "crc"))
        self.client_config.write_text(f"[global]\nmon host = v2:127.0.0.1:{self.monitor.port}/0\n"
                                      f"auth client required = {auth}\n")

    def start(self) -> None:
        for name in ("mon", "osd"):
            (self.directory / name).mkdir()
        conf, monmap = ["-c", str(self.config)], str(self.directory / "monmap")
        keyring = self._make_keyring() if self.cephx else []
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a",
                  f"[v2:127.0.0.1:{self.monitor.port}]", monmap)
        self._run("ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", monmap, *keyring)
        self.monitor.start()
        self._run("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", self._osd_uuid)
        self._connect()
        self.ask("osd new", uuid=self._osd_uuid)
        self.start_osd()

    def start_osd(self) -> None:
        """Start the OSD, also after it was killed, and wait until the monitor knows."""
        osds = self.ask("osd dump", format="json")["osds"]
        self._booted = osds[0]["up_from"] if osds else 0
        self.osd.start()

    def ask(self, prefix: str, **arguments: Any) -> Any:
        """Send a command to the monitor and return its answer, decoded with `format="json"`."""
        assert self._client is not None and self._client.stdin is not None
        self._client.stdin.write(json.dumps({"prefix": prefix, **arguments}) + "\n")
        self._client.stdin.flush()
        code, answer, text = self._answer()
        assert code == 0, f"{prefix}: {code} {text}"
        return json.loads(answer) if arguments.get("format") == "json" else answer

    def create_pool(self, pg_num: int = 4) -> str:
        """Make an empty pool and return its name."""
        name = f"p{uuid.uuid4().hex}"
        self.ask("osd pool create", pool=name, pg_num=pg_num, pool_type="replicated")
        return name

    def drop_pool(self, name: str) -> None:
        self.ask("osd pool delete", pool=name, pool2=name, yes_i_really_really_mean_it=True)

    def create_user(self, name: str, **capabilities: str) -> str:
        """Make a client of cephx, with `mon="allow r"` and the like, and return its key."""
        pairs = [text for pair in capabilities.items() for text in pair]
        return self.ask("auth get-or-create-key", entity=f"client.{name}", caps=pairs).strip()

    def remove(self) -> None:
        if self._client is not None:
            self._client.kill()
            self._client.communicate()
        self.osd.remove()
        self.monitor.remove()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _make_keyring(self) -> list[str]:
        """Make the keys of all daemons, and have them used."""
        path = str(self.directory / "keyring")
        for name, *capabilities in (("mon.", "mon", "allow *"),
                                    ("client.admin", "mon", "allow *", "osd", "allow *", "mgr", "allow *"),
                                    ("osd.0", "mon", "allow profile osd", "osd", "allow *")):
            granted = [text for kind, rule in zip(capabilities[::2], capabilities[1::2], strict=True)
                       for text in ("--cap", kind, rule)]
            self._run("ceph-authtool", path, "--gen-key", "-n", name, *granted,
                      *([] if pathlib.Path(path).exists() else ["--create-keyring"]))
        with self.config.open("a") as file:
            file.write(f"keyring = {path}\n")
        return ["--keyring", path]

    def _connect(self) -> None:
        python = sys.executable if has_rados() else need(shutil.which("python3", path="/usr/bin"), "Debian's Python")
        with (self.directory / "client.log").open("wb") as log:
            self._client = subprocess.Popen(
                [python, "-c", _MONITOR_CLIENT, str(self.config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, process_group=0, preexec_fn=die_with_parent)
        self._answer()

    def _answer(self) -> list[Any]:
        assert self._client is not None and self._client.stdout is not None
        line = self._client.stdout.readline()
        if not line:
            text = (self.directory / "client.log").read_text(errors="replace")
            if "No module named" in text:
                need(None, "python3-rados")
            pytest.fail(f"the client of the monitor ended:\n{text}")
        return json.loads(line)

    def _has_booted(self) -> bool:
        return any(osd["up"] and osd["up_from"] > self._booted for osd in self.ask("osd dump", format="json")["osds"])

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run([self._programs[name], *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=START_TIMEOUT_S, check=False)
        assert done.returncode == 0, f"{name}:\n{done.stdout}"


class Gateway(Server):
    """The server of S3 and Swift (`radosgw`) on a cluster; may be killed and started, the data stays."""

    def __init__(self, ceph: Ceph) -> None:
        program = need(shutil.which("radosgw"), "radosgw")
        self._ceph = ceph
        super().__init__(lambda port, directory: [
            program, "-c", str(ceph.config), "-n", "client.rgw.a", "-f", f"--rgw-data={directory}",
            f"--rgw-frontends=beast endpoint=127.0.0.1:{port}"], _gateway_answers)

    @property
    def url(self) -> str:
        """Endpoint of S3, whose region is `default` and whose buckets are paths."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """What [storage] has to say of S3."""
        return {"s3_endpoint_url": self.url, "s3_region_name": "default", "s3_access_key_id": ACCESS_KEY,
                "s3_secret_access_key": SECRET_KEY}

    @property
    def arguments(self) -> dict[str, str]:
        """The same, as arguments of a driver."""
        return {name.removeprefix("s3_"): value for name, value in self.options.items()}

    @property
    def swift_url(self) -> str:
        """Where to get a token, version 1."""
        return f"{self.url}/auth/v1.0"

    def create_users(self) -> None:
        """Make the one user, with its keys of both kinds; the gateway may run or not."""
        name, _, _ = SWIFT_USER.partition(":")
        self._administer("user", "create", f"--uid={name}", f"--display-name={name}", f"--access-key={ACCESS_KEY}",
                         f"--secret-key={SECRET_KEY}")
        self._administer("subuser", "create", f"--uid={name}", f"--subuser={SWIFT_USER}", "--access=full",
                         f"--secret={SWIFT_KEY}", "--key-type=swift")

    def _administer(self, *arguments: str) -> None:
        command = [need(shutil.which("radosgw-admin"), "radosgw"), "-c", str(self._ceph.config), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=START_TIMEOUT_S, check=False)
        assert done.returncode == 0, f"radosgw-admin:\n{done.stdout}"


def _gateway_answers(port: int) -> bool:
    with contextlib.suppress(OSError, urllib.error.URLError), \
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return answer.status == 200
    return False


def serve_ceph(store: str = "memstore", *, cephx: bool = False) -> Iterator[Ceph]:
    ceph = Ceph(store, cephx=cephx)
    try:
        ceph.start()
        yield ceph
    finally:
        ceph.remove()


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """A cluster in memory that all tests of the process share; nobody stops it."""
    yield from serve_ceph()


@pytest.fixture(scope="module")
def ceph_pool(ceph: Ceph) -> Iterator[str]:
    """Name of a pool of the module's own."""
    name = ceph.create_pool()
    yield name
    ceph.drop_pool(name)


@pytest.fixture
def empty_ceph(ceph: Ceph) -> Iterator[dict[str, str]]:
    """Arguments of a driver on a pool of the test's own."""
    need_rados()
    pool = ceph.create_pool()
    yield {"pool": pool, "username": "", "secret": "", "keyring": "", "timeout": "30",
           "conffile": str(ceph.client_config)}
    ceph.drop_pool(pool)


@pytest.fixture(scope="session")
def gateway(ceph: Ceph) -> Iterator[Gateway]:
    """A gateway with its users; who kills it starts it again."""
    server = Gateway(ceph)
    try:
        server.create_users()
        server.start()
        yield server
    finally:
        server.remove()
