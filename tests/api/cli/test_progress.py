"""How far a loop has come, on a screen that cannot be redrawn."""

from __future__ import annotations

import pytest

from api.cli import progress
from api.cli.progress import Counts, Progress


def loop(done: int, failed: int = 0) -> dict[str, object]:
    payload = {"done": done, "total": 4000, "failed": failed}
    return {"type": "loop.progress", "step": "each", "visit": 1, "attempt": 1, "duration_ms": None, "payload": payload}


def test_counts_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress()
    for done, at in ((1000, 100.0), (2000, 101.0), (3000, 102.0), (4000, 110.0)):
        now[0] = at
        shown.show([loop(done, failed=3)])
    told = "… each  ███████████████░░░░░ 3,000 of 4,000, 3 failed  1,000/s\n"
    assert capsys.readouterr().err == told


def test_a_loop_of_nothing() -> None:
    assert str(Counts(0, 0.0)).startswith("░░░░░░░░░░░░░░░░░░░░ 0 of 0")
