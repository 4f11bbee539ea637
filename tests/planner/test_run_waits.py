"""Limits of a playbook among the registered ones: NP833 to NP835."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.actions import catalogue
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.registration import used_limits
from noetl.planner.registration.checks import check_registration, check_uses, preview_registration
from noetl.planner.registration.used_limits import find_limit_users
from tests.planner.registered import KnownPlaybooks, compiled, diagnose_among, findings_among
from tests.property_settings import examples


def caller(name: str, limits: str | None, *calls: str, more: str = "") -> str:
    """Return a playbook with these limits of runs, which calls others and waits for them."""
    head = "" if limits is None else f"concurrency: {limits}\n"
    lines = "".join(
        f"  - {{action: workflow, playbook: {called}, if: '{{{{ run.id }}}}'{more}}}\n" for called in calls
    )
    return f"name: {name}\n{head}steps:\n- name: a\n  run:\n  - {{action: log, message: x}}\n{lines}"


def run_waits(*texts: str) -> list[Diagnostic]:
    """Return what is found about the waits of the last playbook among the others."""
    found = diagnose_among(KnownPlaybooks(*texts[:-1]), texts[-1])
    return [diagnostic for diagnostic in found if diagnostic.code == "NP833"]


KEYED = "{limit: 1, key: '{{ run.id }}'}"
USE = "{use: imports}"


@pytest.mark.parametrize(
    ("texts", "circle"),
    [
        ((caller("b", None, "a"), caller("a", "3", "b")), "limit of `a` → `a` → `b` → `a` → limit of `a`"),
        ((caller("b", "3", "a"), caller("a", None, "b")), "limit of `b` → `b` → `a` → `b` → limit of `b`"),
        ((caller("a", KEYED, "a"),), "limit of `a` → `a` → limit of `a`"),
        ((caller("b", USE), caller("a", USE, "b")), "limit `imports` → `a` → `b` → limit `imports`"),
        ((caller("a", USE, "b"), caller("b", USE)), "limit `imports` → `a` → `b` → limit `imports`"),
        (
            (caller("a", USE, "m"), caller("b", USE), caller("m", None, "b")),
            "limit `imports` → `a` → `m` → `b` → limit `imports`",
        ),
        (
            (
                caller("a", USE, "b"),
                caller("b", "{use: exports}"),
                caller("d", USE),
                caller("c", "{use: exports}", "d"),
            ),
            "limit `imports` → `a` → `b` → limit `exports` → `c` → `d` → limit `imports`",
        ),
        (
            (caller("a", f"[{{use: exports}}, {USE}]"), caller("c", "{use: exports}"), caller("b", USE, "c")),
            "limit `exports` → limit `imports` → `b` → `c` → limit `exports`",
        ),
    ],
)
def test_a_circle_of_waits_is_reported(texts: Sequence[str], circle: str) -> None:
    (found,) = run_waits(*texts)
    assert found.message == f"runs may wait for each other forever: {circle}"


DISK, LINK = "{use: disk}", "{use: link}"


@pytest.mark.parametrize(
    ("texts", "path"),
    [
        ((caller("b", DISK), caller("a", LINK, "b")), "limit `link` → `a` → `b` → limit `disk`"),
        ((caller("a", LINK, "b"), caller("b", DISK)), "limit `link` → `a` → `b` → limit `disk`"),
        (
            (caller("c", DISK), caller("a", LINK, "b"), caller("b", None, "c")),
            "limit `link` → `a` → `b` → `c` → limit `disk`",
        ),
        (
            (caller("b", USE), caller("c", USE, "d"), caller("d", DISK), caller("a", LINK, "b")),
            "limit `link` → `a` → `b` → limit `imports` → `c` → `d` → limit `disk`",
        ),
        ((caller("b", DISK), caller("a", DISK, "b")), ""),
        ((caller("b", LINK), caller("a", DISK, "b")), None),
        ((caller("b", LINK), caller("a", f"[{LINK}, {DISK}]")), None),
        ((caller("b", DISK), caller("a", LINK, "b", more=", detach: true")), None),
        ((caller("b", DISK), caller("a", "3", "b")), None),
        ((caller("b", DISK), caller("a", LINK, "b"), caller("c", LINK, "d"), caller("e", DISK)), None),
    ],
)
def test_limits_of_all_tenants_are_taken_in_their_order(texts: Sequence[str], path: str | None) -> None:
    messages = [found.message for found in run_waits(*texts)]
    order = "limits of all tenants must be taken in the order of their names, not"
    if path is None:
        assert messages == []
    elif path:
        assert messages == [f"runs of several tenants may wait for each other forever: {order} {path}"]
    else:
        assert messages == ["runs may wait for each other forever: limit `disk` → `a` → `b` → limit `disk`"]


def test_the_place_is_the_call_or_the_limits() -> None:
    registered = KnownPlaybooks(caller("b", USE))
    assert findings_among(registered, caller("a", USE, "b")) == [("NP833", "b")]
    registered = KnownPlaybooks(caller("a", USE, "b"))
    assert findings_among(registered, caller("b", USE)) == [("NP833", "concurrency")]


@pytest.mark.parametrize(
    "texts",
    [
        (caller("b", None, "a"), caller("a", None, "b")),
        (caller("c", "2"), caller("b", "3", "c"), caller("a", "1", "b")),
        (caller("b", "3", "a", more=", detach: true"), caller("a", "3", "b")),
        (caller("b", "{use: exports}"), caller("a", USE, "b")),
        (caller("a", "3", "unknown"),),
        (caller("a", f"[{{limit: 1}}, {USE}]"), caller("c", None), caller("b", USE, "c")),
    ],
)
def test_other_waits_end(texts: Sequence[str]) -> None:
    assert run_waits(*texts) == []


def test_a_forced_registration_may_wait() -> None:
    registered = KnownPlaybooks(caller("b", USE))
    assert diagnose_among(registered, caller("a", USE, "b"), is_forced=True) == ()


@pytest.mark.parametrize(
    ("texts", "severity"),
    [
        ((caller("a", KEYED, "a"),), "warning"),
        ((caller("b", KEYED, "a"), caller("a", None, "b")), "warning"),
        ((caller("b", KEYED, "a"), caller("a", KEYED, "b")), "warning"),
        ((caller("b", "3", "a"), caller("a", KEYED, "b")), "error"),
        ((caller("b", KEYED, "a"), caller("a", "3", "b")), "error"),
        ((caller("b", None, "a"), caller("a", f"[{KEYED}, {{limit: 3}}]", "b")), "error"),
        ((caller("b", USE), caller("a", USE, "b")), "error"),
    ],
)
def test_a_check_of_files_warns_of_a_circle_whose_limits_have_keys(
    texts: Sequence[str], severity: str
) -> None:
    """A registration can be forced, and the check of a folder cannot."""
    files = KnownPlaybooks(*texts)
    (found,) = check_uses(compiled(texts[-1]), files, catalogue())
    assert (found.code, found.severity) == ("NP833", severity)
    (among,) = run_waits(*texts)
    assert (among.severity, among.message, among.hint) == (Severity.ERROR, found.message, found.hint)
    assert ("force the registration" in str(found.hint)) == (severity == "warning")


def test_playbooks_without_limits_cost_no_reads() -> None:
    registered = KnownPlaybooks(*(caller(f"p{number}", None) for number in range(5)))
    for text in (caller("a", None), caller("a", "3"), caller("a", None, "p1")):
        assert diagnose_among(registered, text) == ()
    assert registered.reads == []


def waits_forever(playbooks: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> bool:
    """Return whether runs of playbooks, each with limits and calls, may wait for each other forever.

    A limit leads to another if a run may hold a slot of it while it, or a run that it waits for, needs one of
    the other.
    """
    calls: nx.DiGraph[str] = nx.DiGraph()
    calls.add_nodes_from(playbooks)
    calls.add_edges_from((name, called) for name, (_, all_calls) in playbooks.items() for called in all_calls)
    waits: nx.DiGraph[str] = nx.DiGraph()
    for name, (limits, all_calls) in playbooks.items():
        reached = {found for called in all_calls for found in (called, *nx.descendants(calls, called))}
        for index, limit in enumerate(limits):
            later = [*limits[index + 1 :], *(needed for found in reached for needed in playbooks[found][0])]
            waits.add_edges_from((limit, needed) for needed in later)
        assert name in calls
    return not nx.is_directed_acyclic_graph(waits)


NAMES = ("a", "b", "c", "d")
LIMITS = ("imports", "exports")


@st.composite
def called_playbooks(draw: st.DrawFn) -> dict[str, tuple[list[str], list[str]]]:
    """Return limits and calls by the name of a playbook. An own limit is that name, and comes first."""
    playbooks = {}
    for name in NAMES:
        own_limits = [name] if draw(st.integers(0, 3)) == 0 else []
        used = sorted(draw(st.sets(st.sampled_from(LIMITS), max_size=2)))
        # A call of itself with a limit of the operator is reported when the playbook is compiled.
        callable_names = [called for called in NAMES if called != name or not used]
        calls = sorted(draw(st.sets(st.sampled_from(callable_names), max_size=2)))
        playbooks[name] = own_limits + used, calls
    return playbooks


@given(called_playbooks(), st.permutations(NAMES))
@examples(0.5)
def test_each_circle_is_found_by_its_last_registration(
    playbooks: Mapping[str, tuple[Sequence[str], Sequence[str]]], order: Sequence[str]
) -> None:
    registered = KnownPlaybooks()
    is_found = False
    for name in order:
        limits, calls = playbooks[name]
        written = ", ".join(f"{{use: {limit}}}" if limit in LIMITS else KEYED for limit in limits)
        plan = compiled(caller(name, f"[{written}]" if written else None, *calls))
        found = check_registration(plan, registered, catalogue())
        is_found |= any(diagnostic.code == "NP833" for diagnostic in found)
        registered.add(plan)
    assert is_found == waits_forever(playbooks)


class TestLimitsOfOperators:
    """NP834 and NP835. `salesforce` is a limit of steps, `imports` one of runs, `calls` a rate of steps."""

    TEXT = """
        name: play
        concurrency: RUNS
        steps:
        - name: a
          rule: [{case: default, run: [c]}]
        - {name: lost, run: [{action: log, message: x}]}
        - name: c
          concurrency: VISITS
          run: [{action: log, message: x}]
        """

    @pytest.mark.parametrize(
        ("runs", "visits", "expected"),
        [
            ("{use: imports}", "{use: salesforce}", []),
            ("[{limit: 1}, {use: imports}]", "[{use: salesforce}]", []),
            ("{use: import}", "{use: sales}", [("NP834", "import"), ("NP834", "sales")]),
            (
                "[{limit: 1}, {use: salesforce}]",
                "[{limit: 1}, {use: imports}]",
                [("NP835", "salesforce"), ("NP835", "imports")],
            ),
        ],
    )
    def test_a_limit_exists_and_has_the_right_kind(
        self, runs: str, visits: str, expected: list[tuple[str, str]]
    ) -> None:
        text = self.TEXT.replace("RUNS", runs).replace("VISITS", visits)
        assert findings_among(KnownPlaybooks(), text) == expected
        assert diagnose_among(KnownPlaybooks(), text, is_forced=True) == ()
        of_draft = preview_registration(compiled(text), KnownPlaybooks(), catalogue())
        assert [finding.code for finding in of_draft] == [code for code, _ in expected]

    def test_hints(self) -> None:
        text = self.TEXT.replace("RUNS", "[{use: salesforce}, {use: import}]").replace(
            "VISITS", "[{use: imports}, {use: other}]"
        )
        assert [(found.message, found.hint) for found in diagnose_among(KnownPlaybooks(), text)] == [
            ("`salesforce` is a limit of steps, not of runs", "write it on a step"),
            ("unknown limit `import`", "did you mean `imports`?"),
            ("`imports` is a limit of runs, not of steps", "write it on the playbook"),
            ("unknown limit `other`", "make it with `noetl limits set other NUMBER --of steps`"),
        ]

    def test_a_rate_is_used_as_a_rate(self) -> None:
        text = """
            name: play
            rate: [{use: calls}, {use: imports}, {use: other}]
            steps:
            - name: a
              rate: {use: calls}
              concurrency: {use: calls}
              run: [{action: log, message: x}]
            """
        assert [
            (found.code, found.message, found.hint) for found in diagnose_among(KnownPlaybooks(), text)
        ] == [
            ("NP835", "`calls` is a limit of steps, not of runs", "write it on a step"),
            ("NP835", "limit `imports` is no rate", "write it in `concurrency`"),
            (
                "NP834",
                "unknown limit `other`",
                "make it with `noetl limits set other --rate NUMBER/1m --of runs`",
            ),
            ("NP835", "limit `calls` is a rate", "write it in `rate`"),
        ]

    def test_users_of_a_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = self.TEXT.replace("RUNS", "{use: imports}").replace("VISITS", "{use: salesforce}")
        step = "{name: a, rate: {use: calls}, run: [{action: log, message: x}]}"
        rate = f"name: rate\nrate: {{use: calls}}\nsteps: [{step}]\n"
        known = KnownPlaybooks(text, rate)
        found = {
            name: sorted(find_limit_users(name, known)) for name in ("imports", "salesforce", "calls", "x")
        }
        assert found == {
            "imports": ["`play@1`"],
            "salesforce": ["step `c` of `play@1`"],
            "calls": ["`rate@1`", "step `a` of `rate@1`"],
            "x": [],
        }
        monkeypatch.setattr(used_limits, "MAX_USER_STEPS", 0)
        assert list(find_limit_users("salesforce", known)) == []


def test_a_step_behind_an_unreachable_one_is_found_in_the_text() -> None:
    text = """
        name: play
        steps:
        - name: a
          rule: [{case: default, run: [c]}]
        - {name: lost, run: [{action: log, message: x}]}
        - {name: c, run: [{action: workflow, playbook: nothing}]}
        """
    assert findings_among(KnownPlaybooks(), text) == [("NP817", "nothing")]
