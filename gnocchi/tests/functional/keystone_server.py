"""A whole Keystone in one process, for tests: `python keystone_server.py DIRECTORY PORT`.

Makes its keys and an SQLite database in the directory, bootstraps user `admin` with password `pw` in project `admin` of
domain `default`, and serves; it is ready when `/v3` answers.  A process of its own, because it brings eventlet.
"""

import base64
import os
import sys

PASSWORD = "pw"

CONFIG = """\
[DEFAULT]
log_file = {0}/keystone.log
[database]
connection = sqlite:///{0}/keystone.db
[token]
provider = fernet
[fernet_tokens]
key_repository = {0}/fernet
[fernet_receipts]
key_repository = {0}/receipt
[credential]
key_repository = {0}/cred
[identity]
password_hash_rounds = 4
[cache]
enabled = true
backend = oslo_cache.dict
"""


def write_files(directory: str) -> str:
    """Write keys and configuration; return the latter's path."""
    for name in ("fernet", "receipt", "cred"):
        repository = os.path.join(directory, name)
        os.makedirs(repository, 0o700)
        for number in "01":
            key = os.open(os.path.join(repository, number), os.O_WRONLY | os.O_CREAT, 0o600)
            with open(key, "wb") as file:
                file.write(base64.urlsafe_b64encode(os.urandom(32)))
    path = os.path.join(directory, "keystone.conf")
    with open(path, "w") as file:
        file.write(CONFIG.format(directory))
    return path


def manage(config: str, *arguments: str) -> None:
    """Run a step of keystone-manage in a child: it may be done once in a process."""
    from keystone.cmd import cli

    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            cli.main(argv=["keystone-manage", "--config-file", config, *arguments])
            code = 0
        except SystemExit as e:
            code = e.code or 0
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"keystone-manage {arguments[0]} failed")


def main(directory: str, port: int) -> None:
    import waitress
    from keystone.server import wsgi

    config = write_files(directory)
    url = f"http://127.0.0.1:{port}/v3"
    manage(config, "db_sync")
    manage(config, "bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", "R1",
           "--bootstrap-public-url", url, "--bootstrap-internal-url", url, "--bootstrap-admin-url", url)
    os.environ.update(OS_KEYSTONE_CONFIG_DIR=directory, OS_KEYSTONE_CONFIG_FILES="keystone.conf")
    sys.argv = ["keystone"]     # which it reads when the application is made
    waitress.serve(wsgi.initialize_public_application(), listen=f"127.0.0.1:{port}", threads=4, _quiet=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
