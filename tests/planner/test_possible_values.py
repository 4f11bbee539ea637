"""Names that are always one of a few literals, and what guards that test them say."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.planner.graph.exclusive_steps import ExclusiveSteps
from noetl.planner.program.possible_values import find_literals
from tests.planner.findings import findings, playbook
from tests.planner.programs import build_program

NAMES_READ = ("NP203", "NP204", "NP208", "NP301", "NP302", "NP303", "NP404")
"""The codes of findings that possible values decide."""

COIN = "{action: set, set: {coin: \"{{ 'heads' if input.n > 3 else 'tails' }}\"}}"
HEAD = "input: {n: integer, flag: boolean}\n"


def step(name: str, *cases: str, run: str = "", more: str = "") -> str:
    """Return a step. A case is `GUARD -> TARGET, TARGET`, or `-> TARGET` for `default`."""
    rule = []
    for case in cases:
        guard, _, targets = case.partition("-> ")
        text = f'"{{{{ {guard.strip()} }}}}"' if guard.strip() else "default"
        rule.append(f"{{case: {text}, run: [{targets}]}}")
    parts = [f"name: {name}"]
    parts += [f"run: [{run}]"] if run else []
    parts += [f"rule: [{', '.join(rule)}]"] if rule else []
    return f"{{{', '.join(parts)}{more}}}"


def save(name: str, value: str, more: str = "") -> str:
    return f"{{action: set, set: {{{name}: {value}}}{more}}}"


def read(name: str, condition: str = "") -> str:
    guard = f', if: "{{{{ {condition} }}}}"' if condition else ""
    return f'{{action: log, message: "{{{{ {name} }}}}"{guard}}}'


def problems(*steps: str, head: str = HEAD) -> list[tuple[str, str]]:
    return findings(playbook(*steps, head=head), *NAMES_READ)


@pytest.mark.parametrize(
    ("value", "literals"),
    [
        ("heads", ["heads"]),
        (3, [3]),
        (None, [None]),
        ([], [[]]),
        (["{{ x }}", 1], [["{{ x }}", 1]]),
        ("{{ 'a' }}", ["a"]),
        (" {{ -1 }} ", [-1]),
        ("{{ 'a' if x else 'b' if y else 'a' }}", ["a", "b"]),
        ("{{ 1 if x else true }}", [1, True]),
        ("{{ ['heads', 'tails'] | random }}", ["heads", "tails"]),
        ("{{ x > 1 }}", [True, False]),
        ("{{ not x }}", [True, False]),
        ("{{ x is defined }}", [True, False]),
        # Any other value is possible, or none.
        ("{{ x }}", []),
        ("{{ 'a' if x }}", []),
        ("{{ 'a' if x else y }}", []),
        ("{{ 'a' }}{{ 'b' }}", []),
        ("a{{ 'b' }}", []),
        ("{{ [x, 'tails'] | random }}", []),
        ("{{ [] | random }}", []),
        ("{{ x and true }}", []),
        ("{{ 'a' ~ x }}", []),
        (float("nan"), []),
        (float("inf"), []),
        ("{{ 1e999 }}", []),
        ("{{ 'a' if }}", []),
    ],
)
def test_literals_of_a_value(value: Any, literals: list[Any]) -> None:
    assert [*find_literals(value)] == literals


class TestCoverage:
    """A rule covers all values if it covers those that the name can have."""

    @pytest.mark.parametrize(
        "value",
        [
            "\"{{ 'heads' if input.n > 3 else 'tails' }}\"",
            "\"{{ ['heads', 'tails'] | random }}\"",
            "\"{{ 'heads' if flag else 'tails' if input.n > 3 else 'heads' }}\"",
        ],
    )
    def test_both_cases_cover_the_values(self, value: str) -> None:
        flip = step("flip", "coin == 'heads' -> a", "coin == 'tails' -> b", run=save("coin", value))
        steps = (flip, step("a", "-> show", run=save("x", "1")), step("b", "-> show", run=save("x", "2")))
        assert problems(*steps, step("show", run=read("x"))) == []
        open_rule = step("flip", "coin == 'heads' -> a", "coin == 'edge' -> b", run=save("coin", value))
        assert [code for code, _ in problems(open_rule, *steps[1:], step("show", run=read("x")))] == ["NP203"]

    def test_flip_until_heads(self) -> None:
        flip = step(
            "flip", "coin == 'heads' -> a", "coin == 'tails' -> flip", run=COIN, more=", max_visits: 9"
        )
        steps = (flip, step("a", "-> show", run=save("x", "1")), step("show", run=read("x")))
        assert problems(*steps) == []

    @pytest.mark.parametrize(
        ("value", "guard", "is_dead"),
        [
            ("[one, two]", "not v", True),
            ("[one, two]", "v", False),
            ("[one, two]", "v | length > 2", True),
            ("[one, two]", "v | length == 2", False),
            ("[]", "v", True),
            ("{}", "v", True),
            ("{a: '{{ n }}'}", "not v", True),
            ("false", "v", True),
            ("false", "not v", False),
            ("0", "v > 0", True),
            ("0", "v == false", False),
            ("1", "v == true", False),
            ("1", "v is true", True),
            ("null", "v is none", False),
            ("null", "v is not none", False),
            ("a", "v < 'b'", False),
            ("a", "v in ['b', 'c']", True),
            ("a", "v | default('b') == 'b'", False),
            ("a", "v is defined", False),
            ("'{{ n > 1 }}'", "v == 'true'", True),
            ("'{{ n > 1 }}'", "v == true", False),
        ],
    )
    def test_guard_that_no_literal_makes_true(self, value: str, guard: str, is_dead: bool) -> None:
        steps = (step("a", f"{guard} -> b", run=save("v", value)), step("b", run=read("n")))
        assert [code for code, _ in problems(*steps)] == (["NP203"] if is_dead else [])

    def test_values_of_all_definitions_count(self) -> None:
        rule = ("v == 'x' -> b", "v == 'y' -> b")
        last = step("b", run="{action: log, message: m}")
        first = step("a", "flag -> c", "-> c", run=save("v", "x"))
        assert problems(first, step("c", *rule, run=save("v", "y")), last) == []
        other = step("c", *rule, run=save("v", "z"))
        assert [code for code, _ in problems(first, other, last)] == ["NP203"]
        unknown = step("c", *rule, run=save("v", "'{{ n }}'"))
        assert [code for code, _ in problems(first, unknown, last)] == ["NP208"]

    @pytest.mark.parametrize(
        ("head", "first"),
        [
            ("variables: {v: a}\n", ""),
            ("variables: {v: a}\n", save("v", "a")),
            ("", "{action: shell, command: date, as: v}"),
            ("", save("v", "a") + ", {action: set, set: {w: 1}, as: v}"),
            ("tasks: [{name: t, run: [{action: set, set: {v: '{{ run.id }}'}}]}]\n", save("v", "a") + ", t"),
            ("", save("u", "a") + ", " + save("v", "'{{ u }}'")),
        ],
    )
    def test_value_that_is_not_known(self, head: str, first: str) -> None:
        """A caller may replace the first value of a variable."""
        rule = ("v == 'a' -> b", "v == 'b' -> b")
        steps = (step("a", *rule, run=first or "{action: log, message: m}"), step("b", run=read("v")))
        assert [code for code, _ in problems(*steps, head=HEAD + head)] == ["NP208"]

    def test_environment_is_not_replaced(self) -> None:
        steps = (
            step("a", "environment.mode == 'slow' -> b", "mode == 'fast' -> b"),
            step("b", run=read("mode")),
        )
        assert [code for code, _ in problems(*steps, head="environment: {mode: fast}\n")] == ["NP203"]
        choice = "environment: {mode: \"{{ 'slow' if input.n > 1 else 'fast' }}\"}\n"
        steps = (step("a", "mode == 'slow' -> b", "mode == 'fast' -> b"), step("b", run=read("mode")))
        assert problems(*steps, head=HEAD + choice) == []


class TestImpliedTests:
    """Tests of a name that a run assigns once imply each other, and a definition decides them."""

    def in_branches(self, *tests: str, values: tuple[str, ...] = ("ok", "failed", "skipped")) -> list[str]:
        """Return the codes of a rule with these tests.

        Each case reads what only the branch of its value saves.
        """
        names = ("x", "y", "z")[: len(values)]
        cases = [f"input.n == {index} -> save_{name}" for index, name in enumerate(names)][:-1]
        steps = [step("begin", *cases, f"-> save_{names[-1]}")]
        steps += [
            step(f"save_{name}", "-> decide", run=save("status", value) + ", " + save(name, "1"))
            for name, value in zip(names, values, strict=True)
        ]
        rule = [f"{test} -> read_{name}" for test, name in zip(tests, names, strict=True)]
        steps.append(step("decide", *rule))
        steps += [step(f"read_{name}", run=read(name)) for name in names]
        return [code for code, _ in problems(*steps)]

    @pytest.mark.parametrize(
        ("values", "tests"),
        [
            (("ok", "failed"), ("status == 'ok'", "status == 'failed'")),
            (("ok", "failed"), ("status == 'ok'", "")),
            (("ok", "failed"), ("status != 'failed'", "")),
            (("ok", "failed"), ("'ok' == status", "status not in ['ok', 'skipped']")),
            (("true", "false"), ("status", "not status")),
            (("true", "false"), ("status == true", "")),
            (("1", "2"), ("status < 2", "status > 1")),
            (("[a]", "[]"), ("status", "not status")),
            (("null", "a"), ("status is none", "")),
            (("ok", "failed", "skipped"), ("status == 'ok'", "status == 'failed'", "")),
            (
                ("ok", "failed", "skipped"),
                ("status == 'ok'", "status in ['failed', 'x']", "status == 'skipped'"),
            ),
            (("1", "2", "3"), ("status < 2", "status < 3", "")),
        ],
    )
    def test_guard_decides_by_the_branch(self, values: tuple[str, ...], tests: tuple[str, ...]) -> None:
        assert self.in_branches(*tests, values=values) == []

    @pytest.mark.parametrize(
        ("values", "tests"),
        [
            (("ok", "failed"), ("status == 'failed'", "")),
            (("ok", "ok"), ("status == 'ok'", "")),
            (("true", "1"), ("status == true", "")),
            (("ok", "'{{ run.id }}'"), ("status == 'ok'", "")),
            (("ok", "failed", "skipped"), ("status == 'ok'", "status != 'ok'", "")),
        ],
    )
    def test_guard_decides_by_something_else(self, values: tuple[str, ...], tests: tuple[str, ...]) -> None:
        assert "NP302" in self.in_branches(*tests, values=values)

    def test_conditions_of_reads(self) -> None:
        steps = (
            step("flip", "coin == 'heads' -> a", "coin == 'tails' -> b", run=COIN),
            step("a", "-> c", run=save("x", "1")),
            step("b", "-> c", run=save("y", "1")),
        )
        choice = "x if coin == 'heads' else y"
        reads = (read(choice), read("x", "coin != 'tails'"), read("y", "coin != 'heads'"))
        assert problems(*steps, step("c", run=", ".join(reads))) == []
        for wrong in (read("y if coin == 'heads' else 1"), read("x", "coin == 'tails'"), read("x")):
            assert [code for code, _ in problems(*steps, step("c", run=wrong))] == ["NP302"]

    def test_branches_that_a_name_keeps_apart_do_not_race(self) -> None:
        fork = step("a", "-> b, c", run=COIN)
        first = step("b", "coin == 'heads' -> d", run="{action: log, message: m}")
        second = step("c", "coin == 'GUARD' -> e", run="{action: log, message: m}")
        ends = (step("d", run=save("x", "1")), step("e", run=save("x", "2")))
        for guard, expected in (("tails", []), ("heads", ["NP303"])):
            steps = (fork, first, second.replace("GUARD", guard), *ends)
            assert [code for code, _ in problems(*steps)] == expected

    @pytest.mark.parametrize(
        "steps",
        [
            # The name is saved again later, in the same branch.
            (
                step("a", "flag -> c", "-> b", run=save("v", "one") + ", " + save("x", "1")),
                step("b", "-> c", run=save("v", "two") + ", " + save("y", "1")),
            ),
            # The name is saved twice by one step.
            (step("a", "-> c", run=save("v", "one") + ", " + save("v", "two", ", if: '{{ flag }}'")),),
            # It is saved in a cycle.
            (
                step("a", "-> b", run="{action: log, message: m}"),
                step(
                    "b",
                    "flag and step.visit < 2 -> b",
                    "-> c",
                    run=save("v", "\"{{ 'one' if input.n > step.visit else 'two' }}\"")
                    + ", "
                    + save("y", "1", ", if: \"{{ v == 'two' }}\"")
                    + ", "
                    + save("x", "1", ", if: \"{{ v == 'one' }}\""),
                    more=", max_visits: 2",
                ),
            ),
        ],
    )
    @pytest.mark.parametrize("mode", ["parallel", "sequential"])
    def test_name_that_is_saved_twice_decides_nothing(self, steps: tuple[str, ...], mode: str) -> None:
        """A test of it may have another result later."""
        last = step("c", run=read("x", "v == 'one'") + ", " + read("y", "v == 'two'"))
        codes = [code for code, _ in problems(*steps, last, head=f"{HEAD}mode: {mode}\n")]
        assert {"NP301", "NP302"} & {*codes}

    def test_value_that_a_changing_name_never_has(self) -> None:
        steps = (
            step("a", "-> b", run=save("v", "one")),
            step(
                "b",
                run=save("v", "two") + ", " + read("x", "v == 'three'") + ", " + read("x if not v else 1"),
            ),
        )
        assert problems(*steps, step("c", run=save("x", "1"))) == []
        other = step("c", run=save("v", "'{{ n }}'") + ", " + save("x", "1"))
        assert [code for code, _ in problems(*steps, other)] == ["NP301"]


class TestExclusiveSteps:
    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            (("a", "-> b", "-> c"), True),
            (("a", "-> b, c"), False),
            # A choice after branches have joined again.
            (("a", "-> p, q"), None),
        ],
    )
    def test_two_steps(self, steps: tuple[str, ...], expected: bool | None) -> None:
        name, *cases = steps
        if expected is None:
            text = playbook(
                step(name, *cases),
                step("p", "-> j"),
                step("q", "-> j"),
                step("j", "flag -> b", "-> c"),
                step("b", run=read("n")),
                step("c", run=read("n")),
                head=HEAD,
            )
            expected = True
        else:
            text = playbook(step(name, *cases), step("b", run=read("n")), step("c", run=read("n")), head=HEAD)
        program = build_program(f"name: x\n{text}")
        exclusive = ExclusiveSteps(program.cfg, program.joins, ["b", "c"])
        assert exclusive.are_exclusive(["b", "c"]) is expected
        assert not exclusive.are_exclusive(["b", "b"])
