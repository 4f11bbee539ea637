"""The commands `noetl db …`."""

from __future__ import annotations

import sys

import typer

from noetl.api.cli.display.console import CommandError, print_message
from noetl.api.cli.store_option import StoreOption

app = typer.Typer(
    name="db",
    help="Maintain the database of a store.",
    no_args_is_help=True,
    epilog="Example: noetl db upgrade",
)


@app.callback()
def _group() -> None:
    """Make `db` a group, because typer turns a group of one command into that command."""


@app.command("upgrade", epilog="Example: noetl db upgrade --store postgresql://localhost/noetl")
def upgrade_database(store: StoreOption = None) -> None:
    """Upgrade the schema of a store in Postgres or SQLite, or create the table of a store in DynamoDB.

    Workers may execute runs meanwhile. A repeated upgrade changes nothing.
    """
    from noetl.executor.stores import resolve_url

    url = resolve_url(store)
    if url.startswith("dynamodb://"):
        _create_table(url)
        return
    if url.startswith("sqlite:///"):
        _upgrade_file(url)
        return
    try:
        from noetl.infra import migrations
    except ImportError as error:
        from noetl.executor.extras import install_command

        command = install_command("postgres", sys.executable)
        raise CommandError(
            f"a store in Postgres needs the package psycopg; install it with `{command}`"
        ) from error
    if not url.startswith(("postgres://", "postgresql://")):
        raise CommandError(
            "this store has no schema: name one in Postgres, SQLite or DynamoDB with --store or NOETL_STORE"
        )
    applied = migrations.upgrade(url)
    print_message(
        f"applied migration {', '.join(map(str, applied))}" if applied else "the schema is up to date"
    )


def _upgrade_file(url: str) -> None:
    from noetl.executor.errors import SchemaError
    from noetl.executor.stores import open_store

    try:
        open_store(url, create=False).close()
    except SchemaError:
        open_store(url).close()
        print_message("upgraded the schema")
    else:
        print_message("the schema is up to date")


def _create_table(url: str) -> None:
    from noetl.executor.stores import table_name
    from noetl.infra import dynamodb

    created = dynamodb.upgrade(table_name(url))
    print_message(f"created {', '.join(created)}" if created else "the table is up to date")
