"""The command `noetl db upgrade`."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.clients import aws

Command = Callable[..., Any]


def test_a_missing_extra_is_a_sentence(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "noetl.infra.migrations", raising=False)
    monkeypatch.delattr("noetl.infra.migrations", raising=False)
    outcome = noetl("db", "upgrade", "--store", "postgresql://localhost/none")
    assert (outcome.exit_code, outcome.out) == (2, "")
    command = f"{sys.executable} -m pip install 'psycopg["
    assert outcome.err.startswith(
        f"noetl: a store in Postgres needs the package psycopg; install it with `{command}"
    )


def test_an_unreachable_server_is_a_sentence(noetl: Command) -> None:
    outcome = noetl("db", "upgrade", "--store", "postgresql://127.0.0.1:1/none")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert (
        outcome.err.endswith("Connection refused. Set the store with NOETL_STORE or --store.\n")
        and len(outcome.err.splitlines()) == 1
    )


def test_missing_aws_credentials_are_two_sentences(noetl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    aws.reset_clients()
    outcome = noetl("runs", "list", "--store", "dynamodb://none")
    aws.reset_clients()
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.endswith(
        "or assign a role to the machine. Set the store with NOETL_STORE or --store.\n"
    )


def test_a_store_in_a_file_is_upgraded(noetl: Command, tmp_path: Path) -> None:
    path = tmp_path / "noetl.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(files("noetl.executor.stores.sqlite").joinpath("schema.sql").read_text("utf-8"))
        db.execute("pragma user_version = 2")
    store = f"sqlite:///{path}"
    outcome = noetl("runs", "list", "--store", store)
    assert outcome.exit_code == 2
    assert f"run `noetl db upgrade --store {store}`" in outcome.err
    for message in ("upgraded the schema\n", "the schema is up to date\n"):
        outcome = noetl("db", "upgrade", "--store", store)
        assert (outcome.exit_code, outcome.err) == (0, message)
    assert noetl("runs", "list", "--store", store).exit_code == 0


@pytest.mark.parametrize("store", ["sqlite:///noetl.db", "noetl"])
def test_a_store_that_does_not_exist_is_not_upgraded(noetl: Command, store: str) -> None:
    outcome = noetl("db", "upgrade", "--store", store)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "noetl.db" in outcome.err or "with --store or NOETL_STORE" in outcome.err
