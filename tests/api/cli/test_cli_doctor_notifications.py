"""Lines of `noetl doctor` about notifications that did not arrive."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import give_up
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.store_contract.outbox import add
from tests.api.cli.conftest import Command


def test_undelivered_notifications_and_paused_channels_are_named(noetl: Command, tmp_path: Path) -> None:
    path = tmp_path / "noetl.db"
    with closing(SqliteStore(str(path))) as store:
        record = {"channel": "ops", "attempts": 10}
        entry = OutboxEntry("n1", "default", OutboxKind.NOTIFICATION, 1.0, 1.0, record)
        add(store, give_up(entry, "away", store.clock()))
        reason = "`a.test` answered 410 Gone"
        ops = Channel(
            "default", "ops", "webhook", "https://a.test", 1.0, is_paused=True, paused_reason=reason
        )
        assert store.channels.put(ops, None)
    result = noetl("doctor", "--store", f"sqlite:///{path}")
    assert result.exit_code == 0
    assert "channel ops is paused: `a.test` answered 410 Gone\n" in result.err
    assert "notifications that were not delivered: 1; " in result.err
