"""Random work that waits anywhere, done in one go, and done in pieces by workers of whom some die: it comes to the same."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from noetl.executor.model.run import Claim
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.plan import Plan

from tests.run_harness import LEASE_SECONDS, RunHarness, compile_text
from tests.simulation.faults import Crash

NAMES = [f"v{number}" for number in range(6)]
MOST_CRASHES = 3
"""How often one piece is lost; more would be given up as `WorkerLost`."""

MOST_PIECES = 500

Tree = dict[str, Any]


@dataclass
class Author:
    """Writes a playbook of one step. With `fails_beside` work may fail for good while other work is at work beside it: what
    that one has done by then is a matter of time.
    """

    chance: random.Random
    fails_beside: bool
    tasks: Tree = field(default_factory=dict)

    def playbook(self) -> Tree:
        chance = self.chance
        parallel, looped = chance.random() < 0.3, chance.random() < 0.3
        step: Tree = {"name": "a", "run": self.work(3, NAMES, parallel or looped, parallel=parallel)}
        if parallel:
            step["parallel"] = True
        if looped:
            step["loop"] = self.loop()
        elif chance.random() < 0.3:
            step["repeat"] = {"until": "{{ v0 > 50 }}", "every": "2s", "max": 3}
        caught = {"action": "set", "set": {"caught": "{{ error.type }}"}}
        found = {"action": "set", "set": {"found": "{{ result.data }}"}}
        step["rule"] = [
            {"case": "error", "run": [caught, *self.work(2, NAMES, False)]},
            {"case": "default", "run": [*self.work(2, NAMES, False), found]},
        ]
        variables = {name: index for index, name in enumerate(NAMES)}
        return {"name": "random", "variables": variables, "tasks": self.tasks, "steps": [step]}

    def work(self, depth: int, names: list[str], beside: bool, *, parallel: bool = False) -> list[Tree]:
        count = self.chance.randint(2, 5)
        own = [names[index::count] if parallel else names for index in range(count)]
        return [self.item(depth, mine, beside or parallel) for mine in own]

    def item(self, depth: int, names: list[str], beside: bool) -> Tree:
        chance = self.chance
        kind = chance.choice(["set", "set", "note", "wait", "wait", "fail", *["task"] * 3 * (depth > 0)])
        looped = depth > 0 and chance.random() < 0.4
        forgiven = chance.random() < 0.5
        if kind == "task":
            inside = (beside and not forgiven) or looped
            item = {"task": self.task(depth - 1, names, inside), "with": {"given": self.value()}}
        elif kind == "fail" and (self.fails_beside or not (beside or looped) or forgiven):
            item = self.failure()
        elif kind == "set" and names:
            item = {"action": "set", "set": {name: self.value() for name in chance.sample(names, 1)}}
        elif kind == "wait":
            item = {"action": "wait", "seconds": f"{{{{ input.pace * ({self.sum()} % 4) }}}}"}
        else:
            item = {"action": "file", "append": "done.txt", "content": "at {{ step.idempotency_key }}\n"}
        if looped:
            item["loop"] = self.loop() | ({"on_error": "continue"} if chance.random() < 0.5 else {})
        if forgiven:
            item["on_error"] = "continue"
        if "if" not in item and chance.random() < 0.2:
            item["if"] = f"{{{{ {chance.choice(NAMES)} % 2 == 0 }}}}"
        return item

    def failure(self) -> Tree:
        name = self.chance.choice(NAMES)
        return {"action": "fail", "message": "no", "type": "Odd", "if": f"{{{{ {name} % 2 == 0 }}}}"}

    def loop(self) -> Tree:
        chance = self.chance
        items: Any = [chance.randint(0, 9) for _ in range(chance.randint(0, 5))]
        if chance.random() < 0.3:
            items = f"{{{{ range({chance.choice(NAMES)} % 5) | list }}}}"
        loop: Tree = {
            "items": items,
            "as": chance.choice(["item", "other"]),
            "concurrency": chance.choice([1, 2, 9]),
        }
        return loop | ({"batch": chance.randint(1, 4)} if chance.random() < 0.5 else {})

    def task(self, depth: int, names: list[str], beside: bool) -> str:
        parallel = self.chance.random() < 0.4
        work = self.work(depth, names, beside, parallel=parallel)
        if not parallel and (self.fails_beside or not beside) and self.chance.random() < 0.5:
            work.append(self.failure())
        name = f"t{len(self.tasks)}"
        self.tasks[name] = {"parallel": True, "run": work} if parallel else work
        return name

    def value(self) -> str:
        return f"{{{{ ({self.sum()}) % 97 }}}}"

    def sum(self) -> str:
        first, second = self.chance.sample(NAMES, 2)
        return f"({first} + {second} * 2 + {self.chance.randint(0, 9)})"


def without_batches(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: without_batches(value) for key, value in tree.items() if key != "batch"}
    return [without_batches(item) for item in tree] if isinstance(tree, list) else tree


@dataclass
class End:
    status: str
    result: Any
    errors: list[str]
    lines: set[str]


def lines(folder: Path) -> Counter[str]:
    path = folder / "done.txt"
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def in_one_go(folder: Path, plan: Plan) -> End:
    return performed(folder, plan, {"pace": 0}, random.Random(0), crashes=0)


def performed(folder: Path, plan: Plan, input: Tree, chance: random.Random, *, crashes: float) -> End:
    """How the run ends. What was done in a piece that is committed is not done in another."""
    folder.mkdir(parents=True)
    with closing(SqliteStore(str(folder / "noetl.db"))) as store:
        return performed_in(store, folder, plan, input, chance, crashes=crashes)


def performed_in(
    store: SqliteStore, folder: Path, plan: Plan, input: Tree, chance: random.Random, *, crashes: float
) -> End:
    play = RunHarness(store, plan, input, folder=folder, id="random")
    committed: set[str] = set()
    before: Counter[str] = Counter()
    lost = 0
    for _ in range(MOST_PIECES):
        if play.status.is_final:
            break
        claim = play.claim()
        if claim is None:
            due = store.next_due(play.queue)
            assert due is not None
            assert due < play.clock() + 1000, "the run is stuck"
            play.clock.now = max(play.clock(), due)
            continue
        dies = lost < MOST_CRASHES and chance.random() < crashes
        walk(play, claim, dies=dies)
        done = lines(folder)
        new = done - before
        assert not new.keys() & committed
        if dies:
            lost += 1
            play.clock.advance(LEASE_SECONDS)
            continue
        assert max(new.values(), default=1) <= 1 + lost
        before, lost = done, 0
        committed = set(done)
    end = End(play.status.value, play.result, play.error_types, set(lines(folder)))
    run, db = play.run, store.file.connection()
    assert run.status.is_final
    assert run.live == 0 or run.stop is not None
    if run.stop is None:
        assert db.execute("select * from parts").fetchall() == []
    return end


def walk(play: RunHarness, claim: Claim, *, dies: bool) -> None:
    walker = replace(play.executor(), continues=lambda: False)
    if not dies:
        walker.execute(claim)
        return
    with pytest.raises(Crash):
        replace(walker, store=Dying(play.store)).execute(claim)


class Dying:
    """A store whose caller dies at the commit."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name in ("commit", "finish"):
            raise Crash
        return getattr(self._store, name)


@pytest.mark.parametrize("seed", [*range(14), 18, 43])
def test_pieces_come_to_the_same(tmp_path: Path, seed: int) -> None:
    chance, fails_beside = random.Random(seed), seed % 2 == 1
    tree = Author(chance, fails_beside).playbook()
    expected = in_one_go(tmp_path / "one", compile_text(json.dumps(without_batches(tree))))
    plan = compile_text(json.dumps(tree))
    for crashes in (0.0, 0.3):
        found = performed(tmp_path / f"{crashes}", plan, {"pace": 1}, chance, crashes=crashes)
        if fails_beside:
            found.lines = expected.lines
        assert found == expected


def test_what_is_left_behind_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control of the harness: a task that failed behind a pause leaves what it had saved before."""
    monkeypatch.setattr("noetl.executor.engine.perform.apply_inverse", lambda saved, _: dict(saved))
    with pytest.raises(AssertionError):
        test_pieces_come_to_the_same(tmp_path, 43)
