"""Playbooks made to keep the planner busy: it gives up, or says little, before they have cost much.

What they cost is counted in calls of functions, which are the same on every machine; a second has some millions of them.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Iterable

import pytest

from executor.actions import catalogue
from planner.compile import compile_playbook

OK = "{action: log, message: x}"
MAX_CALLS = 2_000_000
MAX_CALLS_PER_BYTE = 25


def rule(guards: Iterable[str]) -> str:
    cases = "".join(f'  - {{case: "{{{{ {guard} }}}}", run: []}}\n' for guard in guards)
    return f"steps:\n- name: a\n  run: [{OK}]\n  rule:\n{cases}"


def choices(number: int, of: int) -> str:
    return " and ".join(f"(a{number * k % 13} or b{(number + k) % 17} or (c{k % 5} and d{k % 11}))" for k in range(of))


def steps(lines: Iterable[str]) -> str:
    return "steps:\n" + "".join(f"- {{name: {line}}}\n" for line in lines)


def leading_on(size: int) -> str:
    """Every step forks to all that follow."""
    forks = (
        f"s{i}, rule: [{{case: default, run: [{', '.join(f's{j}' for j in range(i + 1, size))}]}}]"
        for i in range(size - 1)
    )
    return steps([*forks, f"s{size - 1}, run: [{OK}]"])


def leading_everywhere(size: int) -> str:
    """Every step forks to all others."""
    return steps(
        f"s{i}, max_visits: 3, rule: [{{case: '{{{{ x }}}}', run: [{', '.join(f's{j}' for j in range(size) if j != i)}]}},"
        " {case: default}]"
        for i in range(size)
    )


def crossing(size: int) -> str:
    """Two rows of steps that branches change between at every step."""
    lines = [
        f"{row}{i}, rule: [{{case: '{{{{ x }}}}', run: [a{i + 1}]}}, {{case: default, run: [b{i + 1}]}}]"
        for i in range(size)
        for row in "ab"
    ]
    ends = [f"{row}{size}, run: [{OK}]" for row in "ab"]
    return steps(["f, rule: [{case: default, run: [a0, b0]}]", *lines, *ends])


def cycles_within_cycles(size: int) -> str:
    lines = [
        f"s{i}, max_visits: 3, rule: [{{case: '{{{{ x }}}}', run: [s{i + 1}, t{i}]}},"
        f" {{case: '{{{{ y }}}}', run: [s{max(i - 1, 0)}]}}]}}\n- {{name: t{i}, rule: [{{case: default, run: [s{i + 1}]}}]"
        for i in range(size)
    ]
    return steps([*lines, f"s{size}, run: [{OK}]"])


def enums(size: int, count: int) -> str:
    values = ", ".join(f"v{n}" for n in range(size))
    lines = (
        f"s{n}, rule: [{{case: \"{{{{ e == 'v{n}' }}}}\"}}, {{case: \"{{{{ e == 'v1' }}}}\"}}]" for n in range(count)
    )
    return f"input: {{e: {{enum: [{values}]}}}}\n" + steps(lines)


PLAYBOOKS = {
    "guards with many ways to be true": rule(choices(n, 12) for n in range(100)),
    "rules with many cases": steps(
        f"s{s}, rule: [{', '.join(f'''{{case: '{{{{ x == {n} and y == {n} }}}}'}}''' for n in range(100))}]"
        for s in range(100)
    ),
    "a long comparison": rule([" < ".join(f"x{n}" for n in range(900)), "x1 < x0"]),
    "a long list": rule([f"x in [{', '.join(map(str, range(start, 1900)))}]" for start in range(5)]),
    "a long alternative": rule([" if a else ".join(f"x{n}" for n in range(90)) for _ in range(20)]),
    "large enumerations": enums(3_000, 1_000),
    "all steps lead to all that follow": leading_on(300),
    "all steps lead to all": leading_everywhere(150),
    "branches that cross": crossing(1_000),
    "cycles within cycles": cycles_within_cycles(1_000),
    "deep brackets": rule(["(" * 500 + "x" + ")" * 500]),
    "deep negation": rule(["not " * 5_000 + "x"]),
    "a huge number": rule(["x == " + "9" * 5_000]),
    "a huge guard": rule([" or ".join(f"(x{n % 50} and y{n % 31})" for n in range(3_000))]),
    "many alternatives": steps(
        f"s{s}, run: [{{action: log, message: '{{% if a{s} %}}{elifs}{{% endif %}}'}}]"
        for elifs in ["".join(f"{{% elif x{n} is defined and y{n} %}}{{{{ z{n} }}}}" for n in range(330))]
        for s in range(6)
    ),
    "many words at fault in one text": "steps:\n- name: s\n  run:\n  - action: postgres\n    connection: c\n    query: |\n"
    + "".join(f"      select '{{{{ a{n} }}}}'\n" for n in range(1_900)),
    "thousands of names": rule([f"{' and '.join(f'n{k}_{n}' for k in range(50))}" for n in range(60)]),
}


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_what_it_costs_is_bounded(name: str) -> None:
    text = f"name: hostile\n{PLAYBOOKS[name]}"
    profile = cProfile.Profile()
    compilation = profile.runcall(compile_playbook, text, catalogue())
    calls = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    assert calls <= MAX_CALLS + MAX_CALLS_PER_BYTE * len(text)
    codes = {d.code for d in compilation.diagnostics if d.severity == "error"}
    assert codes <= {"NP405", "NP701", "NP205", "NP505"}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("all steps lead to all that follow", "NP701"),
        ("all steps lead to all", "NP701"),
        ("branches that cross", "NP701"),
        ("deep brackets", "NP405"),
        ("deep negation", "NP405"),
        ("a huge number", "NP405"),
        ("a huge guard", "NP405"),
    ],
)
def test_what_is_too_much_is_refused(name: str, code: str) -> None:
    found = compile_playbook(f"name: hostile\n{PLAYBOOKS[name]}", catalogue())
    assert code in {d.code for d in found.diagnostics}
    assert found.plan is None
