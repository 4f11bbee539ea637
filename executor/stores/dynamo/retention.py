"""How long runs are kept that have ended: DynamoDB deletes items whose time is over."""

from __future__ import annotations

import os
from collections.abc import Mapping

from executor.errors import SettingError
from executor.stores.dynamo import keys
from executor.stores.dynamo.attributes import Item
from executor.stores.dynamo.change import PRESENT, Change
from executor.stores.dynamo.core import Core
from executor.stores.dynamo.repeating import Refused
from executor.stores.dynamo.runs import spread_of

DAY_SECONDS = 86_400
_SETTING = "NOETL_RETENTION_DAYS"


def retention_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """How long runs are kept after their end: `NOETL_RETENTION_DAYS`, or None for ever.

    Raises:
        SettingError: it is not a number of days.
    """
    text = environ.get(_SETTING, "").strip()
    if not text:
        return None
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 0 < days <= 36_500:
        raise SettingError(f"{_SETTING} is {text!r}; it must be a number of days, at most 36500.")
    return days * DAY_SECONDS


class Retention(Core):
    """The part of the store that lets runs expire."""

    def let_expire(self, head: Item, now: float) -> None:
        """Say when the items of a run that has ended may be deleted: the head, without which there is no run, a day before the
        rest. One write for each of them.
        """
        if self.keeps_seconds is not None:
            self._say(head, int(now + self.keeps_seconds))

    def keep(self, head: Item) -> None:
        """Let a run not expire after all."""
        if "expires" in head:
            self._say(head, None)

    def _say(self, head: Item, at: int | None) -> None:
        run_id = head["pk"][2:]
        found: list[keys.Key] = []
        for number in range(spread_of(head)):
            for item in self.table.query(keys.partition(run_id, number), ""):
                found.append(keys.Key(item["pk"], item["sk"]))
                found += [keys.token(token) for token in item.get("tokens", ())]
        if "key" in head:
            found.append(keys.Key(head["key"], "I"))

        def say(key: keys.Key) -> None:
            later = None if at is None else at if key == keys.head(run_id) else at + DAY_SECONDS
            try:
                self.table.update(Change(key, {"expires": later}, when=(PRESENT,)))
            except Refused:
                return  # it is gone

        self.in_parallel(say, found)
