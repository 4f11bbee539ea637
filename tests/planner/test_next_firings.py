"""The next firings of the schedules of a draft."""

from __future__ import annotations

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_program
from noetl.planner.editing.draft import read_draft
from noetl.planner.editing.next_firings import SHOWN_FIRINGS, find_next_firings

TEXT = """\
name: scheduled
triggers:
  - {name: nightly, type: schedule, cron: "30 2 * * *", timezone: Europe/Berlin}
  - name: often
    type: schedule
    every: 1h
  - {name: wrong, type: schedule, cron: "30 25 * * *"}
  - {name: nowhere, type: schedule, cron: "30 2 * * *", timezone: Mars/North}
  - {name: both, type: schedule, cron: "30 2 * * *", every: 1h}
  - {name: ended, type: schedule, every: 1h, end: "2020-01-01"}
  - {name: paid, type: webhook, path: paid, auth: {scheme: none}}
steps:
  - {name: load, run: [{action: log, message: hello}]}
"""
BEFORE_CHANGE = 2_216_163_600.0
"""2040-03-24T01:00:00Z, a day before the clock is set forward in Berlin."""


def test_valid_schedules_have_their_next_firings() -> None:
    _, program = compile_program(TEXT, catalogue())
    assert program is not None
    nightly, often, ended = find_next_firings(program, BEFORE_CHANGE)
    assert (nightly.trigger, nightly.line, nightly.timezone) == ("nightly", 3, "Europe/Berlin")
    assert [firing.local.isoformat() for firing in nightly.firings] == [
        "2040-03-24T02:30:00+01:00",
        "2040-03-25T03:00:00+02:00",
        "2040-03-26T02:30:00+02:00",
    ]
    assert nightly.firings[1].note == "there is no 02:30: the offset changes from +01:00 to +02:00"
    assert (often.trigger, often.line, len(often.firings)) == ("often", 6, SHOWN_FIRINGS)
    assert (ended.trigger, ended.firings) == ("ended", ())


def test_a_draft_with_errors_has_its_valid_schedules() -> None:
    draft = read_draft(TEXT, catalogue())
    assert draft.compilation.plan is None
    assert [schedule.trigger for schedule in draft.schedules] == ["nightly", "often", "ended"]
