"""The commands `noetl keys …`."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noetl.api.cli.display.console import (
    EXIT_FAILED,
    CommandError,
    print_message,
    write_json,
    write_stdout,
    write_table,
)
from noetl.api.cli.list_pages import JsonOption
from noetl.api.cli.store_option import StoreOption, open_command_store

if TYPE_CHECKING:
    from noetl.executor.model.registry import ApiKey

app = typer.Typer(
    name="keys",
    help="Create, list and revoke the API keys of a service.",
    no_args_is_help=True,
    epilog="Example: noetl keys create nightly-jobs --scope run",
)

TenantOption = Annotated[str, typer.Option("--tenant", metavar="NAME", help="The tenant of the keys.")]

_MAX_NAME_LENGTH = 100


class KeyScope(StrEnum):
    READ = "read"
    RUN = "run"
    ADMIN = "admin"


@app.command("create", no_args_is_help=True, epilog="Example: noetl keys create nightly-jobs --scope run")
def create_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    scope: Annotated[
        KeyScope,
        typer.Option(
            "--scope",
            help="read: show runs and playbooks; run: also start, cancel, resume runs;"
            " admin: also change the registry, limits and channels.",
        ),
    ] = KeyScope.READ,
    tenant: TenantOption = "default",
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Create a key and write it to stdout. It is shown only once: the store has only its hash.

    Once the store has a key, its services refuse requests without a key or a token.
    """
    from noetl.api.auth.api_keys import create_api_key

    if not name.strip() or len(name) > _MAX_NAME_LENGTH or not name.isprintable():
        raise CommandError(f"NAME must be 1 to {_MAX_NAME_LENGTH} printable characters")
    _check_tenant(tenant)
    text, key = create_api_key(name, [scope.value], tenant, round(time.time(), 6))
    with open_command_store(store) as opened_store:
        opened_store.keys.add(key)
    if json:
        write_json({"key": text, **_to_json(key)})
    else:
        write_stdout(f"{text}\n")
        print_message(f"key {key.id} of tenant {tenant}; it is not shown again")


@app.command("list", epilog="Example: noetl keys list --tenant sales")
def list_keys(tenant: TenantOption = "default", json: JsonOption = False, store: StoreOption = None) -> None:
    """List the keys of a tenant, the oldest first."""
    _check_tenant(tenant)
    with open_command_store(store, create=False) as opened_store:
        keys = opened_store.keys.find(tenant)
    if json:
        write_json({"items": [_to_json(key) for key in keys], "next_cursor": None})
        return
    write_table([_row(key) for key in keys])
    if not keys:
        print_message("no keys")


@app.command("revoke", no_args_is_help=True, epilog="Example: noetl keys revoke 0f1e2d3c4b5a")
def revoke_key(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of a key, as `noetl keys list` shows it.")],
    tenant: TenantOption = "default",
    store: StoreOption = None,
) -> None:
    """Revoke a key: services refuse it after a second at most. A repeated command changes nothing."""
    _check_tenant(tenant)
    with open_command_store(store, create=False) as opened_store:
        if not opened_store.keys.revoke(tenant, id, round(time.time(), 6)):
            raise CommandError(f"unknown key {id} of tenant {tenant}", EXIT_FAILED)
    print_message(f"key {id} is revoked")


def _check_tenant(tenant: str) -> None:
    from noetl.api.auth.api_keys import is_tenant

    if not is_tenant(tenant):
        raise CommandError(
            "--tenant must start with a letter or digit, followed by letters, digits and any of ._:@|-"
        )


def _to_json(key: ApiKey) -> dict[str, Any]:
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


def _row(key: ApiKey) -> tuple[str, ...]:
    fields = _to_json(key)
    used = "never used" if key.last_used_at is None else f"used {fields['last_used_at'][:19]}Z"
    return (
        key.id,
        ",".join(key.scopes),
        f"{fields['created_at'][:19]}Z",
        used,
        "revoked" if key.revoked_at else "",
        key.name,
    )
