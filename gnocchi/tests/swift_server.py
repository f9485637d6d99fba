"""A whole Swift in one process, for tests: `python swift_server.py DIRECTORY PORT PORTS MEMCACHED_PORT`.

The proxy serves on PORT; PORTS, joined by commas, are of the object, container and account servers.  One replica of
all, in the directory.  Tokens by tempauth, of version 1: user `test:tester` with password `testing`.  A process of its
own, because it brings eventlet.  Prints READY once it serves.
"""

import os
import sys

USER, KEY = "test:tester", "testing"

COMMON = """\
[DEFAULT]
bind_port = {port}
bind_ip = 127.0.0.1
workers = 0
mount_check = false
disable_fallocate = true
swift_dir = {directory}
devices = {directory}/srv
recon_cache_path = {directory}
log_level = ERROR
"""
SERVER = """\
[pipeline:main]
pipeline = app
[app:app]
use = egg:swift#{kind}
"""
FILTERS = ["catch_errors", "gatekeeper", "healthcheck", "memcache", "listing_formats", "bulk", "tempauth"]
OPTIONS = {"memcache": "memcache_servers = 127.0.0.1:{memcached}\n",
           "tempauth": "user_test_tester = testing .admin\n"}
PROXY = """\
[pipeline:main]
pipeline = {pipeline} proxy-server
{filters}
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
"""


def write_files(directory: str, port: int, ports: dict[str, int], memcached: int) -> None:
    os.makedirs(os.path.join(directory, "srv", "disk"))

    def write(name: str, text: str) -> None:
        with open(os.path.join(directory, name), "w") as file:
            file.write(text)

    write("swift.conf", "[swift-hash]\nswift_hash_path_prefix = t\nswift_hash_path_suffix = t\n")
    for kind, own in ports.items():
        write(f"{kind}.conf", COMMON.format(port=own, directory=directory) + SERVER.format(kind=kind))
    # Without the middleware that deletes many objects at once, where a test wants to see what becomes of it.
    names = [name for name in FILTERS if name not in os.environ.get("SWIFT_WITHOUT", "").split(",")]
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n{OPTIONS.get(name, '').format(memcached=memcached)}"
                      for name in names)
    write("proxy.conf", COMMON.format(port=port, directory=directory)
          + PROXY.format(pipeline=" ".join(names), filters=filters))


def make_ring(directory: str, kind: str, port: int) -> None:
    from swift.common.ring.builder import RingBuilder

    ring = RingBuilder(4, 1, 1)
    ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": "127.0.0.1", "port": port, "device": "disk",
                  "meta": "", "replication_ip": "127.0.0.1", "replication_port": port})
    ring.rebalance()
    ring.get_ring().save(os.path.join(directory, f"{kind}.ring.gz"))


def main(directory: str, port: int, ports: dict[str, int], memcached: int) -> None:
    if not os.path.exists(directory):       # else it was killed, and goes on with what it has
        write_files(directory, port, ports, memcached)

    from swift.common import utils
    utils.SWIFT_CONF_FILE = os.path.join(directory, "swift.conf")    # before anything else of Swift is imported
    utils.monkey_patch()
    utils.validate_hash_conf()
    for kind, own in ports.items():
        make_ring(directory, kind, own)

    import eventlet
    import eventlet.wsgi
    from swift.common.wsgi import SwiftHttpProtocol, loadapp

    threads = []
    with open(os.devnull, "w") as nowhere:
        for kind, own in {**ports, "proxy": port}.items():
            application = loadapp(os.path.join(directory, f"{kind}.conf"))
            threads.append(eventlet.spawn(eventlet.wsgi.server, eventlet.listen(("127.0.0.1", own), backlog=256),
                                          application, log=nowhere, protocol=SwiftHttpProtocol, debug=False))
        print("READY", flush=True)
        for thread in threads:
            thread.wait()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]),
         dict(zip(("object", "container", "account"), map(int, sys.argv[3].split(",")), strict=True)), int(sys.argv[4]))
