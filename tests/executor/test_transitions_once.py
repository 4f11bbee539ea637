"""Each transition of visits and runs, and each limit, is written once: in `executor/model`.

Problem: stores that decide by themselves what a visit becomes differ sooner or later.

Algorithm: read the syntax trees of all stores, and the SQL in their strings and files. Report each place that
sets a status, counts claims or fences, or has a sentence or an event of a transition. ALLOWED lists what SQL
and requests must say themselves, by the name of the statement.

Cost: one pass over the sources.

Limits: a store that computes a status from other text is not found. The observer of
`tests/transition_observer.py` finds it when it acts.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from noetl.executor.model.run import RunStatus, VisitStatus
from noetl.infra.reference import ROOT

EXECUTOR = ROOT / "executor"
STORES = EXECUTOR / "stores"
MODEL = EXECUTOR / "model"

FACTS = {
    "has already ended": "run_transition.py",
    "there is nothing to resume": "run_transition.py",
    "the idempotency key was used": "run_transition.py",
    "the claim of step": "visit_transition.py",
    "the claim of the waiting step": "wait_transition.py",
    "has ever waited for this answer": "wait_transition.py",
    "another answer arrived before": "wait_transition.py",
    "does not wait for an answer any more": "wait_transition.py",
    "the outputs of the step exceed": "limits.py",
    "the result of the run exceeds": "limits.py",
    "the answer exceeds": "limits.py",
    "an output of the step cannot be written": "limits.py",
    "step.started": "visit_transition.py",
    "step.skipped": "visit_transition.py",
    "step.waiting": "transition.py",
    "step.retrying": "transition.py",
    "step.transition": "transition.py",
}
"""Parts of sentences and names of events, and the module of `executor/model` that alone has them."""

ALLOWED = Counter(
    {
        "sql/queries/fragments.sql: begin_run status = 'running'": 1,
        "sql/queries/fragments.sql: claim_next status = 'running'": 1,
        "sql/queries/fragments.sql: claim_next claims = claims +": 1,
        "sql/queries/fragments.sql: claim_next fence = fence +": 1,
        "sql/queries/queue.sql: release claims = claims -": 1,
        "sql/queries/queue.sql: release fence = fence +": 1,
        "sql/queries/queue.sql: write_outcome status = case": 1,
        "sql/queries/branches.sql: park_visits status = 'parked'": 1,
        "sql/queries/sweep.sql: unpark status = 'ready'": 1,
        "sql/queries/deletions.sql: end_claims status = 'parked'": 1,
        "sql/queries/deletions.sql: end_claims fence = fence +": 1,
        "dynamo/queue.py: fence: 1": 2,
        "dynamo/queue.py: claims: -1": 1,
    }
)
"""Decisions of single statements and requests, because no process has read the rows that they change.

Both dialects of SQL share the statements. The observer compares what they write with the table.
"""

TEXT_OF_EVENT = {"step.started": "stores/postgres/queue.py"}
"""An event that a statement of Postgres completes with the step of the visit that it claims."""

STATUS = re.compile(r"\bstatus = (?:'(\w+)'|case\b)")
COUNTER = re.compile(r"\b(claims|fence) = [^,]*\b\1\b[^,]*[+-]")
CONDITION = re.compile(r"\bcase when .*? then\b")
SET_CLAUSE = re.compile(r"\bset\b(.*?)(?:\bwhere\b|\breturning\b|\bfrom\b|$)", re.DOTALL | re.IGNORECASE)


def sources(folder: Path) -> list[Path]:
    """Return the Python and SQL files of a folder."""
    return sorted(path for pattern in ("*.py", "*.sql") for path in folder.rglob(pattern))


def docstrings(tree: ast.Module) -> set[int]:
    """Return the ids of the string constants that are docstrings, or stand alone as remarks."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def compared_strings(tree: ast.Module) -> set[int]:
    """Return the ids of the constants in comparisons, which read an event and do not make one."""
    comparisons = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    return {id(operand) for node in comparisons for operand in (node.left, *node.comparators)}


def statements(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each statement of a file of SQL."""
    _, *parts = re.split(r"^-- name: (\w+).*$", text, flags=re.MULTILINE)
    yield from zip(parts[::2], parts[1::2], strict=True)


@cache
def strings(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the strings of a file: in SQL with their names. `{}` stands for the values in an f-string."""
    return tuple(find_strings(path))


def find_strings(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text("utf-8")
    if path.suffix == ".sql":
        yield from statements(text)
        return
    tree = ast.parse(text)
    skipped = docstrings(tree) | compared_strings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(value) for value in node.values}
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield "", "".join(parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield "", node.value


def is_status(node: ast.expr) -> bool:
    """Return whether an expression is a member of VisitStatus or RunStatus, or its value."""
    if isinstance(node, ast.Attribute) and node.attr == "value":
        node = node.value
    if isinstance(node, ast.IfExp):
        return is_status(node.body) or is_status(node.orelse)
    names = (VisitStatus.__name__, RunStatus.__name__)
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names


def is_text(arguments: list[ast.expr]) -> bool:
    """Return whether arguments begin with a text or an f-string."""
    return bool(arguments) and isinstance(arguments[0], ast.Constant | ast.JoinedStr)


def counts_claims(node: ast.BinOp) -> bool:
    """Return whether an expression adds a number to, or subtracts it from, claims or a fence."""
    if not isinstance(node.op, ast.Add | ast.Sub) or not isinstance(node.right, ast.Constant):
        return False
    words = {
        part.attr
        if isinstance(part, ast.Attribute)
        else part.id
        if isinstance(part, ast.Name)
        else part.value
        for part in ast.walk(node.left)
        if isinstance(part, ast.Attribute | ast.Name | ast.Constant)
    }
    return bool(words & {"claims", "fence"})


def find_decisions(path: Path) -> Iterator[str]:
    """Yield the code of a Python file that sets a status, counts claims or makes an event."""
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "status"]
            if isinstance(node.func, ast.Name) and node.func.id == "Visit":
                values += node.args
            if any(map(is_status, values)):
                yield f"{ast.unparse(node.func)}(status)"
            if isinstance(node.func, ast.Name) and node.func.id == "Event" and is_text(node.args[:1]):
                yield f"Event({ast.unparse(node.args[0])})"
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                name = key.value if isinstance(key, ast.Constant) else None
                if name == "status" and is_status(value):
                    yield f"status: {ast.unparse(value)}"
                if name in ("claims", "fence") and isinstance(value, ast.Constant | ast.UnaryOp):
                    yield f"{name}: {ast.unparse(value)}"
        elif isinstance(node, ast.BinOp) and counts_claims(node):
            yield ast.unparse(node)


def find_sql_decisions(path: Path) -> Iterator[str]:
    """Yield the assignments in SQL that set a status or count claims, after the name of the statement."""
    for name, text in strings(path):
        for clause in SET_CLAUSE.findall(text) if "update" in text.lower() else ():
            assignments = CONDITION.sub("case", " ".join(clause.split()))
            for pattern in (STATUS, COUNTER):
                for found in pattern.finditer(assignments):
                    yield f"{name} {found.group()}".strip()


def all_decisions() -> Counter[str]:
    """Return the places of stores that decide a transition by themselves, and how often they do."""
    return Counter(
        f"{path.relative_to(STORES)}: {code}"
        for path in sources(STORES)
        for code in [*find_decisions(path), *find_sql_decisions(path)]
    )


def homes_of(fact: str) -> list[str]:
    """Return the files of the executor that have a text."""
    return [
        str(path.relative_to(EXECUTOR))
        for path in sources(EXECUTOR)
        if any(fact in text for _, text in strings(path))
    ]


def test_no_store_decides_a_transition_by_itself() -> None:
    assert all_decisions() - ALLOWED == Counter()


def test_nothing_is_allowed_that_no_store_does() -> None:
    assert ALLOWED - all_decisions() == Counter()


@pytest.mark.parametrize("fact", FACTS)
def test_each_sentence_and_event_is_written_once(fact: str) -> None:
    assert set(homes_of(fact)) == {f"model/{FACTS[fact]}", TEXT_OF_EVENT.get(fact, f"model/{FACTS[fact]}")}


class TestFinders:
    """Each form of a decision is found."""

    @pytest.mark.parametrize(
        ("code", "found"),
        [
            ("replace(visit, status=VisitStatus.RUNNING)", ["replace(status)"]),
            ("replace(visit, status=VisitStatus.READY if a else b)", ["replace(status)"]),
            ("Visit(id, run, step, VisitStatus.READY, 0, {})", ["Visit(status)"]),
            ('{"status": VisitStatus.PARKED.value}', ["status: VisitStatus.PARKED.value"]),
            ('{"fence": 1, "claims": -1}', ["fence: 1", "claims: -1"]),
            ('item.get("fence", 0) + 1', ["item.get('fence', 0) + 1"]),
            ('Event("workflow.resumed", now)', ["Event('workflow.resumed')"]),
            ("query(\"update visits set status = 'parked', due_at = ?\")", ["status = 'parked'"]),
            ('query("update visits set fence = fence + 1 where id = ?")', ["fence = fence +"]),
            ("visit.status is VisitStatus.RUNNING", []),
            ('("status", "=", VisitStatus.RUNNING.value)', []),
            ('{"status": visit.status.value, "fence": visit.fence}', []),
            ("query(\"update visits set due_at = ? where status = 'running'\")", []),
            ("query(\"update visits set due_at = case when status = 'ready' then ? else 1 end\")", []),
            ('query("update visits set status = ?, claims = ?")', []),
        ],
    )
    def test_a_decision_is_found(self, code: str, found: list[str], tmp_path: Path) -> None:
        path = tmp_path / "store.py"
        path.write_text(code + "\n", "utf-8")
        assert [*find_decisions(path), *find_sql_decisions(path)] == found

    def test_sql_in_a_file_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "claim.sql"
        path.write_text(
            "-- A remark.\n-- name: claim\nupdate visits\nset status = 'running'\nwhere id = :id;\n"
            "-- name: renew\nupdate visits set due_at = :until where status = 'running';",
            "utf-8",
        )
        assert list(find_sql_decisions(path)) == ["claim status = 'running'"]

    def test_a_text_in_a_docstring_is_no_fact(self, tmp_path: Path) -> None:
        path = tmp_path / "store.py"
        path.write_text('"""x"""\nraise E(f"y {1} z" "w")\n', "utf-8")
        assert [text for _, text in strings(path)] == ["y {} zw"]
