"""`noetl keys …`"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from noetl.api.cli.commands.runs import write_table
from noetl.api.cli.display.console import FAILED, RefusalError, say, write, write_json
from noetl.api.cli.store_option import StoreOption, opened

if TYPE_CHECKING:
    from noetl.executor.model.registry import Key

app = typer.Typer(help="Make, list and revoke the API keys of a service.")

TenantOption = Annotated[
    str, typer.Option("--tenant", metavar="NAME", help="Whose runs and playbooks they are for.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]

_MOST_NAME = 100


class Scope(StrEnum):
    READ = "read"
    RUN = "run"
    ADMIN = "admin"


@app.command("create", no_args_is_help=True, epilog="Example: noetl keys create nightly-jobs --scope run")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    scope: Annotated[
        Scope,
        typer.Option(
            "--scope", help="read: look; run: and start, cancel, resume runs; admin: and keep playbooks."
        ),
    ] = Scope.READ,
    tenant: TenantOption = "default",
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Make a key and write it to stdout. It is shown this once: the store keeps its hash.

    From the first key on, a service that uses the store serves nobody without one, or without a token.
    """
    from noetl.api.auth.api_keys import create_api_key

    if not name.strip() or len(name) > _MOST_NAME or not name.isprintable():
        raise RefusalError(f"NAME must be 1 to {_MOST_NAME} printable characters")
    _check(tenant)
    text, key = create_api_key(name, [scope.value], tenant, round(time.time(), 6))
    with opened(store) as opened_store:
        opened_store.add_key(key)
    if json:
        write_json({"key": text, **_shown(key)})
    else:
        write(f"{text}\n")
        say(f"key {key.id} of tenant {tenant}; it is not shown again")


@app.command("list", epilog="Example: noetl keys list --tenant sales")
def list_keys(tenant: TenantOption = "default", json: JsonOption = False, store: StoreOption = None) -> None:
    """List the keys of a tenant, the oldest first."""
    _check(tenant)
    with opened(store, create=False) as opened_store:
        keys = opened_store.keys(tenant)
    if json:
        write_json({"items": [_shown(key) for key in keys], "next_cursor": None})
        return
    write_table([_row(key) for key in keys])
    if not keys:
        say("no keys")


@app.command("revoke", no_args_is_help=True, epilog="Example: noetl keys revoke 0f1e2d3c4b5a")
def revoke_key(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of a key, as `noetl keys list` shows it.")],
    tenant: TenantOption = "default",
    store: StoreOption = None,
) -> None:
    """Revoke a key: services refuse it from the next request on. A repeat changes nothing."""
    _check(tenant)
    with opened(store, create=False) as opened_store:
        if not opened_store.revoke_key(tenant, id, round(time.time(), 6)):
            raise RefusalError(f"tenant {tenant} has no key {id}", FAILED)
    say(f"key {id} is revoked")


def _check(tenant: str) -> None:
    from noetl.api.auth.api_keys import is_tenant

    if not is_tenant(tenant):
        raise RefusalError(
            "--tenant must begin with a letter or digit, and go on with those and any of ._:@|-"
        )


def _shown(key: Key) -> dict[str, Any]:
    from noetl.executor.model.events import timestamp

    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "created_at": timestamp(key.created_at),
        "last_used_at": timestamp(key.last_used_at),
        "revoked_at": timestamp(key.revoked_at),
    }


def _row(key: Key) -> tuple[str, ...]:
    shown = _shown(key)
    used = "never used" if key.last_used_at is None else f"used {shown['last_used_at'][:19]}"
    return (
        key.id,
        ",".join(key.scopes),
        shown["created_at"][:19],
        used,
        "revoked" if key.revoked_at else "",
        key.name,
    )
