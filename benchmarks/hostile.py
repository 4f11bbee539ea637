"""`python -m benchmarks.hostile`: how long the compiler is busy with texts that are made to keep it busy, beside an honest playbook
of as many bytes, and what it says to them.

Each text is about as large as its kind may be before a limit is passed, or passes one that is found late.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.syntax.reader import MAX_BYTES
from noetl.planner.templates import template as template_module

from benchmarks import report
from benchmarks.measure import seconds
from benchmarks.playbooks import SHAPES

OK = "{action: log, message: x}"

COLUMNS: Sequence[report.Column] = (
    ("text", lambda row: row["text"]),
    ("size", lambda row: f"{row['bytes'] / 1024:,.0f} KiB"),
    ("time", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
    ("an honest one", lambda row: f"{row['honest_seconds'] * 1e3:,.0f} ms"),
    ("time/that", lambda row: f"{row['ratio']:.1f}"),
    ("said", lambda row: ", ".join(f"{code} {number:,}" for code, number in row["codes"].items())),
)


def rule(guards: Iterable[str]) -> str:
    cases = "".join(f'  - {{case: "{{{{ {guard} }}}}", run: []}}\n' for guard in guards)
    return f"steps:\n- name: a\n  run: [{OK}]\n  rule:\n{cases}"


def steps(lines: Iterable[str]) -> str:
    return "steps:\n" + "".join(f"- {{name: {line}}}\n" for line in lines)


def going_on(at: int, last: int) -> str:
    return f", rule: [{{case: default, run: [s{at + 1}]}}]" if at < last else ""


def logging(number: int, text: Callable[[int], str]) -> str:
    """Steps that each tell a text."""
    return steps(f's{at}, run: [{{action: log, message: "{text(at)}"}}]' for at in range(number))


def choosing(number: int, guard: Callable[[int, int], str], head: str = "") -> str:
    """Steps that each have a rule of 99 cases."""
    rules = (
        ", ".join(f'{{case: "{{{{ {guard(at, case)} }}}}"}}' for case in range(99)) for at in range(number)
    )
    return head + steps(f"s{at}, rule: [{cases}]" for at, cases in enumerate(rules))


def choices(number: int, of: int) -> str:
    return " and ".join(
        f"(a{number * k % 13} or b{(number + k) % 17} or (c{k % 5} and d{k % 11}))" for k in range(of)
    )


def leading_on(size: int) -> str:
    """Every step forks to all that follow."""
    forks = (
        f"s{at}, rule: [{{case: default, run: [{', '.join(f's{to}' for to in range(at + 1, size))}]}}]"
        for at in range(size - 1)
    )
    return steps([*forks, f"s{size - 1}, run: [{OK}]"])


def leading_everywhere(size: int) -> str:
    """Every step forks to all others."""
    others = (", ".join(f"s{to}" for to in range(size) if to != at) for at in range(size))
    return steps(
        f"s{at}, max_visits: 3, rule: [{{case: '{{{{ x }}}}', run: [{targets}]}}, {{case: default}}]"
        for at, targets in enumerate(others)
    )


def crossing(size: int) -> str:
    """Two rows of steps that branches change between at every step."""
    lines = [
        f"{row}{at}, rule: [{{case: '{{{{ x }}}}', run: [a{at + 1}]}}, {{case: default, run: [b{at + 1}]}}]"
        for at in range(size)
        for row in "ab"
    ]
    ends = [f"{row}{size}, run: [{OK}]" for row in "ab"]
    return steps(["f, rule: [{case: default, run: [a0, b0]}]", *lines, *ends])


def cycles_within_cycles(size: int) -> str:
    lines = [
        f"s{at}, max_visits: 3, rule: [{{case: '{{{{ x }}}}', run: [s{at + 1}, t{at}]}},"
        f" {{case: '{{{{ y }}}}', run: [s{max(at - 1, 0)}]}}]}}\n"
        f"- {{name: t{at}, rule: [{{case: default, run: [s{at + 1}]}}]"
        for at in range(size)
    ]
    return steps([*lines, f"s{size}, run: [{OK}]"])


def modes(size: int) -> str:
    """Steps that lead to the seven that follow, which wait for all, one or none of the branches."""
    ahead = (", ".join(f"s{to}" for to in range(at + 1, min(at + 8, size))) for at in range(size - 1))
    lines = (
        f"s{at}, join: {('any', 'each', 'all')[at % 3]}, run: [{{action: set, set: {{x{at % 7}: 1}}}}],"
        f" rule: [{{case: default, run: [{targets}]}}]"
        for at, targets in enumerate(ahead)
    )
    return steps([*lines, f"s{size - 1}, run: [{OK}]"])


def in_turns(size: int) -> str:
    """A row of forks of which one branch saves and the other one reads."""
    lines = []
    for at in range(size):
        reads = f'{{action: log, message: "{{{{ x{max(at - 1, 0)} | default(1) }}}} {{{{ x{at} }}}}"}}'
        leads = f"rule: [{{case: default, run: [a{at + 1}]}}]"
        lines += [
            f"a{at}, rule: [{{case: default, run: [b{at}, c{at}]}}]",
            f"b{at}, run: [{{action: set, set: {{x{at}: 1}}}}], {leads}",
            f"c{at}, run: [{reads}], {leads}",
        ]
    return "mode: sequential\n" + steps([*lines, f"a{size}, run: [{OK}]"])


def by_chance(size: int) -> str:
    """A graph without any order, in which steps ask what has been saved."""
    chance = random.Random(1)

    def any_step() -> str:
        return f"s{chance.randrange(size)}"

    lines = (
        f"s{at}, max_visits: 2, run: [{{action: shell, command: ls, as: x{chance.randrange(60)}}}], rule: ["
        f'{{case: "{{{{ x{chance.randrange(60)} is defined }}}}", run: [{any_step()}, {any_step()}]}},'
        f" {{case: error, run: [{any_step()}]}}, {{case: default, run: [{any_step()}]}}]"
        for at in range(size)
    )
    return "on_error: continue\n" + steps(lines)


def dead_cases(size: int) -> str:
    lines = (
        f's{at}, run: [{{action: set, set: {{x{at}: "{{{{ x{at - 1} }}}}"}}}}],'
        f' rule: [{{case: "{{{{ v is defined }}}}", run: [s{at + 1}]}}, {{case: default, run: [s{at + 2}]}}]'
        for at in range(1, size)
    )
    ends = (f"s{at}, run: [{OK}]" for at in (size, size + 1))
    return "variables: {v: 1}\non_error: continue\n" + steps([*lines, *ends])


def visits_read(size: int) -> str:
    lines = (
        f's{at}, run: [{{action: log, message: "{{{{ steps.s{at - 1}.result }}}} {{{{ steps.s{at + 1}.error }}}}"}}],'
        f' rule: [{{case: "{{{{ steps.s{at // 2}.visits > 0 }}}}", run: [s{at + 2}]}}, {{case: default, run: [s{at + 1}]}}]'
        for at in range(1, size)
    )
    return steps([*lines, *(f"s{at}, run: [{OK}]" for at in (size, size + 1))])


def misspelt(size: int) -> str:
    lines = (
        f"s{at}, run: [{{action: set, set: {{customer_number_{at}: 1}}}},"
        f' {{action: log, message: "{{{{ custmer_number_{at} }}}}"}}]{going_on(at, size - 1)}'
        for at in range(size)
    )
    return "input: {}\n" + steps(lines)


def many_names(size: int) -> str:
    saved = ", ".join(f"n{at}: 1" for at in range(size))
    read = "".join(
        f'  - {{action: log, message: "{{{{ {" ~ ".join(f"n{at}" for at in range(first, first + 300))} }}}}"}}\n'
        for first in range(0, size, 300)
    )
    first = f"a, run: [{{action: set, set: {{{saved}}}}}], rule: [{{case: default, run: [b]}}]"
    return steps([first]) + f"- name: b\n  run:\n{read}"


def called_tasks(size: int) -> str:
    """Tasks that call each other twice, as deep as they may, and steps that call three of them."""
    tasks = "".join(
        f'- {{name: t{at}, run: [t{at + 1}, t{at + 1}, {{action: set, set: {{v{at}: "{{{{ v{at + 1} }}}}"}}}}]}}\n'
        for at in range(31)
    )
    lines = (f"s{at}, run: [t0, t1, t2]{going_on(at, size - 1)}" for at in range(size))
    return f"tasks:\n{tasks}- {{name: t31, run: [{OK}]}}\n" + steps(lines)


def racing(size: int, names: int) -> str:
    saved = ", ".join(f"x{at}: 1" for at in range(names))
    fork = f"f, rule: [{{case: default, run: [{', '.join(f'b{at}' for at in range(size))}]}}]"
    return steps([fork, *(f"b{at}, run: [{{action: set, set: {{{saved}}}}}]" for at in range(size))])


def in_sinks(action: str, text: Callable[[int], str], number: int = 15) -> str:
    words = "".join(map(text, range(900)))
    return steps(f"s{at}, run: [{{action: {action}: '{words}'}}]" for at in range(number))


def nested(what: str) -> str:
    return f"{{% for {what} in y %}}" * 40 + "x" + "{% endfor %}" * 40


TEXTS: dict[str, Callable[[], str]] = {
    # Documents.
    "deep lists": lambda: "steps: " + "[" * 200_000,
    "many deep lists": lambda: "steps:\n" + f"- {'[' * 60}{']' * 60}\n" * 8_000,
    "aliases of aliases": lambda: (
        "a: &a [x]\n"
        + "".join(
            f"{chr(98 + at)}: &{chr(98 + at)} [{', '.join([f'*{chr(97 + at)}'] * 9)}]\n" for at in range(9)
        )
    ),
    "keys that are there already": lambda: "steps: []\n" + "".join(f"a{at % 3}: 1\n" for at in range(90_000)),
    "values of the wrong type": lambda: (
        "steps:\n" + "- {name: [1], run: 7, rule: x, loop: 5, retry: []}\n" * 15_000
    ),
    "a huge number": lambda: steps([f"s, max_visits: {'9' * 900_000}, run: [{OK}]"]),
    "unknown keys": lambda: steps(
        f"s{at}, run: [{{action: htpp, ulr: x}}, {{action: http, mehtod: y}}], rlue: []"
        for at in range(9_000)
    ),
    # Templates.
    "deep brackets": lambda: rule(["(" * 500 + "x" + ")" * 500]),
    "deep negation": lambda: rule(["not " * 5_000 + "x"]),
    "a huge constant": lambda: rule(["x == " + "9" * 5_000]),
    "a huge guard": lambda: rule([" or ".join(f"(x{n % 50} and y{n % 31})" for n in range(3_000))]),
    "huge texts": lambda: logging(28, lambda at: "".join(f"{{{{ a{at}_{n} + 1 }}}} " for n in range(1_300))),
    "many alternatives": lambda: logging(
        40,
        lambda at: (
            f"{{% if a{at} %}}"
            + "".join(f"{{% elif x{n} is defined and y{n} %}}{{{{ z{n} }}}}" for n in range(330))
            + "{% endif %}"
        ),
    ),
    "loops in loops": lambda: logging(700, lambda at: nested(f"x{at}")),
    "conditions in conditions": lambda: logging(
        1_100,
        lambda at: (
            "{{ "
            + "".join(f"(x{n} if x{n} is defined else " for n in range(28))
            + f"y{at}"
            + ")" * 28
            + " }}"
        ),
    ),
    "rows of filters": lambda: logging(1_500, lambda at: f"{{{{ a{at}{'|upper' * 90} }}}}"),
    "thousands of names": lambda: many_names(30_000),
    "thousands of outputs": lambda: (
        f"steps:\n- {{name: s, run: [{OK}]}}\noutput:\n"
        + "".join(
            f'  o{n}: "{{{{ steps.s{n}.result if z{n} is defined else q{n} }}}}"\n' for n in range(9_000)
        )
    ),
    # Guards.
    "guards with many ways to be true": lambda: rule(choices(n, 12) for n in range(100)),
    "a long comparison": lambda: rule([" < ".join(f"x{n}" for n in range(900)), "x1 < x0"]),
    "a long list": lambda: rule([f"x in [{', '.join(map(str, range(start, 1_900)))}]" for start in range(5)]),
    "many values": lambda: choosing(
        100, lambda at, n: f"e in ['v{at}', 'v{n}'] and e != 'v{n + 1}'", _enum(9_000)
    ),
    "many comparisons": lambda: choosing(
        110, lambda at, n: f"e{n % 3} == 'v{at}' or (e{n % 2} > {n} and e{(n + 1) % 3} < {n + 5})"
    ),
    "much that is implied": lambda: choosing(
        80,
        lambda _, n: f"(x{n} is defined or y{n} is defined) and (y{n} is defined or z{n}) and (z{n} or x{n})",
    ),
    # Graphs.
    "all steps lead to all that follow": lambda: leading_on(500),
    "all steps lead to all": lambda: leading_everywhere(400),
    "branches that cross": lambda: crossing(4_000),
    "cycles within cycles": lambda: cycles_within_cycles(3_000),
    "joins of every kind": lambda: modes(3_000),
    "branches that take turns": lambda: in_turns(2_200),
    "a graph by chance": lambda: by_chance(3_000),
    "branches that race": lambda: racing(1_000, 60),
    # Names.
    "misspelt names": lambda: misspelt(6_000),
    "misspelt steps": lambda: steps(
        f"step_number_{at}, rule: [{{case: default, run: [stp_number_{at + 1}]}}]" for at in range(9_900)
    ),
    "cases that are never taken": lambda: dead_cases(6_000),
    "steps that read each other": lambda: visits_read(5_500),
    "tasks that call tasks": lambda: called_tasks(6_000),
    # Sinks.
    "quoted words in a query": lambda: in_sinks(
        "postgres, connection: c, query", lambda n: f"''{{{{ a{n} }}}}'', $x$ /* -- {{{{ b }}}} */ "
    ),
    "quoted words in a command": lambda: in_sinks(
        "shell, command", lambda n: f'"$(echo `{{{{ a{n} }}}}`)" <<E {{{{ b }}}} '
    ),
    "commands in commands": lambda: steps(
        f"s{at}, run: [{{action: shell, command: 'echo {'$(' * 20_000}{{{{ a }}}}{')' * 20_000}'}}]"
        for at in range(16)
    ),
}
"""What keeps a compiler busy, by what it is."""


def _enum(size: int) -> str:
    return f"input: {{e: {{enum: [{', '.join(f'v{n}' for n in range(size))}]}}}}\n"


def text_of(name: str) -> str:
    """The whole text."""
    return f"name: hostile\n{TEXTS[name]()}"


def honest(size: int) -> str:
    """A chain of steps as people write them, of about as many bytes, none more than a playbook may have."""
    return SHAPES["chain"](max(2, min(size, MAX_BYTES - 1_000) // 258))


def measure(names: Iterable[str] = TEXTS, repetitions: int = 3) -> list[dict[str, Any]]:
    """One row for each text."""
    catalogue()
    return [_row(name, repetitions) for name in names]


def _row(name: str, repetitions: int) -> dict[str, Any]:
    text = text_of(name)
    codes = Counter(found.code for found in compile_playbook(text, catalogue()).diagnostics)
    times = [
        seconds(
            lambda: compile_playbook(each, catalogue()),  # noqa: B023
            repetitions,
            prepare=template_module.cached_parse.cache_clear,
        )
        for each in (text, honest(len(text)))
    ]
    return {
        "text": name,
        "bytes": len(text),
        "seconds": times[0],
        "honest_seconds": times[1],
        "ratio": times[0] / times[1],
        "codes": dict(codes.most_common(3)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="TEXT", help=f"which: {', '.join(TEXTS)}")
    options = parser.parse_args()
    rows = measure(options.names or TEXTS)
    print(report.table("Texts that are made to keep the compiler busy", COLUMNS, rows))


if __name__ == "__main__":
    main()
