"""`noetl db …`"""

from __future__ import annotations

import typer
from noetl.api.cli.display.console import RefusalError, say
from noetl.api.cli.store_option import StoreOption

app = typer.Typer(help="Look after the database of a store.")


@app.callback()
def _group() -> None:
    """A group of one command would be that command without this."""


@app.command("upgrade", epilog="Example: noetl db upgrade --store postgresql://localhost/noetl")
def upgrade_database(store: StoreOption = None) -> None:
    """Bring the schema of a store in Postgres up to date, or make the table of one in DynamoDB. Runs may be at work meanwhile;
    doing it again changes nothing.
    """
    from noetl.executor.stores import resolve_url

    url = resolve_url(store)
    if url.startswith("dynamodb://"):
        _make_table(url)
        return
    try:
        from noetl.infra import migrations
    except ImportError as error:
        raise RefusalError("a store in Postgres needs the extra `postgres` of this installation") from error
    if not url.startswith(("postgres://", "postgresql://")):
        raise RefusalError(
            "a store in Postgres or DynamoDB is upgraded: --store postgresql://HOST/DATABASE or dynamodb://TABLE, or"
            " NOETL_STORE"
        )
    applied = migrations.upgrade(url)
    say(f"applied migration {', '.join(map(str, applied))}" if applied else "the schema is up to date")


def _make_table(url: str) -> None:
    from noetl.executor.stores import table_name
    from noetl.infra import dynamodb

    made = dynamodb.upgrade(table_name(url))
    say(f"made {', '.join(made)}" if made else "the table is up to date")
