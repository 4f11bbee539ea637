"""Time of the compiler for hostile texts, and of hostile expressions: `python -m benchmarks.hostile`.

Each text is made to keep the compiler busy. Its time is compared with that of an ordinary playbook of the
same length. Each text is about as large as its kind may be before a limit is exceeded, or exceeds one that
is found late. `hostile_expressions` measures the expressions, and `hostile_names` all names that they may
use.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import hostile_expressions, hostile_names, report
from benchmarks.measure import median_seconds
from benchmarks.playbooks import SHAPES
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.syntax.reader import MAX_BYTES

OK = "{action: log, message: x}"

COLUMNS: Sequence[report.Column] = (
    ("text", lambda row: row["text"]),
    ("size", lambda row: f"{row['bytes'] / 1024:,.0f} KiB"),
    ("time", lambda row: f"{row['seconds'] * 1e3:,.0f} ms"),
    ("ordinary", lambda row: f"{row['honest_seconds'] * 1e3:,.0f} ms"),
    ("ratio", lambda row: f"{row['ratio']:.1f}"),
    ("said", lambda row: ", ".join(f"{code} {number:,}" for code, number in row["codes"].items())),
)


def rule(guards: Iterable[str]) -> str:
    cases = "".join(f'  - {{case: "{{{{ {guard} }}}}", run: []}}\n' for guard in guards)
    return f"steps:\n- name: a\n  run: [{OK}]\n  rule:\n{cases}"


def steps(lines: Iterable[str]) -> str:
    return "steps:\n" + "".join(f"- {{name: {line}}}\n" for line in lines)


def rule_to_next(index: int, last: int) -> str:
    return f", rule: [{{case: default, run: [s{index + 1}]}}]" if index < last else ""


def logging_steps(number: int, text: Callable[[int], str]) -> str:
    """Return steps that each log a text."""
    return steps(f's{index}, run: [{{action: log, message: "{text(index)}"}}]' for index in range(number))


def choosing_steps(number: int, guard: Callable[[int, int], str], head: str = "") -> str:
    """Return steps that each have a rule of 99 cases."""
    rules = (
        ", ".join(f'{{case: "{{{{ {guard(index, case)} }}}}"}}' for case in range(99))
        for index in range(number)
    )
    return head + steps(f"s{index}, rule: [{cases}]" for index, cases in enumerate(rules))


def choices(number: int, count: int) -> str:
    return " and ".join(
        f"(a{number * k % 13} or b{(number + k) % 17} or (c{k % 5} and d{k % 11}))" for k in range(count)
    )


def fork_to_later_steps(size: int) -> str:
    """Return steps that each fork to all later steps."""
    forks = (
        f"s{index}, rule: [{{case: default, "
        f"run: [{', '.join(f's{target}' for target in range(index + 1, size))}]}}]"
        for index in range(size - 1)
    )
    return steps([*forks, f"s{size - 1}, run: [{OK}]"])


def fork_to_all_steps(size: int) -> str:
    """Return steps that each fork to all other steps."""
    targets_of_steps = (
        ", ".join(f"s{target}" for target in range(size) if target != index) for index in range(size)
    )
    return steps(
        f"s{index}, max_visits: 3, rule: [{{case: '{{{{ x }}}}', run: [{targets}]}}, {{case: default}}]"
        for index, targets in enumerate(targets_of_steps)
    )


def crossing_branches(size: int) -> str:
    """Return two chains. At every step a branch continues in either chain."""
    lines = [
        f"{row}{index}, rule: [{{case: '{{{{ x }}}}', run: [a{index + 1}]}},"
        f" {{case: default, run: [b{index + 1}]}}]"
        for index in range(size)
        for row in "ab"
    ]
    ends = [f"{row}{size}, run: [{OK}]" for row in "ab"]
    return steps(["f, rule: [{case: default, run: [a0, b0]}]", *lines, *ends])


def cycles_within_cycles(size: int) -> str:
    lines = [
        f"s{index}, max_visits: 3, rule: [{{case: '{{{{ x }}}}', run: [s{index + 1}, t{index}]}},"
        f" {{case: '{{{{ y }}}}', run: [s{max(index - 1, 0)}]}}]}}\n"
        f"- {{name: t{index}, rule: [{{case: default, run: [s{index + 1}]}}]"
        for index in range(size)
    ]
    return steps([*lines, f"s{size}, run: [{OK}]"])


def join_modes(size: int) -> str:
    """Return steps that fork to the next seven, with alternating join modes."""
    targets_of_steps = (
        ", ".join(f"s{target}" for target in range(index + 1, min(index + 8, size)))
        for index in range(size - 1)
    )
    lines = (
        f"s{index}, join: {('any', 'each', 'all')[index % 3]},"
        f" run: [{{action: set, set: {{x{index % 7}: 1}}}}],"
        f" rule: [{{case: default, run: [{targets}]}}]"
        for index, targets in enumerate(targets_of_steps)
    )
    return steps([*lines, f"s{size - 1}, run: [{OK}]"])


def sequential_branches(size: int) -> str:
    """Return forks in a row, in sequential mode. One branch saves a name, and the other one reads it."""
    lines = []
    for index in range(size):
        reads = f'{{action: log, message: "{{{{ x{max(index - 1, 0)} | default(1) }}}} {{{{ x{index} }}}}"}}'
        leads = f"rule: [{{case: default, run: [a{index + 1}]}}]"
        lines += [
            f"a{index}, rule: [{{case: default, run: [b{index}, c{index}]}}]",
            f"b{index}, run: [{{action: set, set: {{x{index}: 1}}}}], {leads}",
            f"c{index}, run: [{reads}], {leads}",
        ]
    return "mode: sequential\n" + steps([*lines, f"a{size}, run: [{OK}]"])


def random_graph(size: int) -> str:
    """Return a random graph whose guards test whether names are defined."""
    chance = random.Random(1)

    def any_step() -> str:
        return f"s{chance.randrange(size)}"

    lines = (
        f"s{index}, max_visits: 2,"
        f" run: [{{action: shell, command: ls, as: x{chance.randrange(60)}}}], rule: ["
        f'{{case: "{{{{ x{chance.randrange(60)} is defined }}}}", run: [{any_step()}, {any_step()}]}},'
        f" {{case: error, run: [{any_step()}]}}, {{case: default, run: [{any_step()}]}}]"
        for index in range(size)
    )
    return "on_error: continue\n" + steps(lines)


def dead_cases(size: int) -> str:
    lines = (
        f's{index}, run: [{{action: set, set: {{x{index}: "{{{{ x{index - 1} }}}}"}}}}],'
        f' rule: [{{case: "{{{{ v is defined }}}}", run: [s{index + 1}]}},'
        f" {{case: default, run: [s{index + 2}]}}]"
        for index in range(1, size)
    )
    ends = (f"s{index}, run: [{OK}]" for index in (size, size + 1))
    return "variables: {v: 1}\non_error: continue\n" + steps([*lines, *ends])


def visits_read(size: int) -> str:
    lines = (
        f's{index}, run: [{{action: log, message: "{{{{ steps.s{index - 1}.result }}}}'
        f' {{{{ steps.s{index + 1}.error }}}}"}}],'
        f' rule: [{{case: "{{{{ steps.s{index // 2}.visits > 0 }}}}", run: [s{index + 2}]}},'
        f" {{case: default, run: [s{index + 1}]}}]"
        for index in range(1, size)
    )
    return steps([*lines, *(f"s{index}, run: [{OK}]" for index in (size, size + 1))])


def misspelt_names(size: int) -> str:
    lines = (
        f"s{index}, run: [{{action: set, set: {{customer_number_{index}: 1}}}},"
        f' {{action: log, message: "{{{{ custmer_number_{index} }}}}"}}]{rule_to_next(index, size - 1)}'
        for index in range(size)
    )
    return "input: {}\n" + steps(lines)


def many_names(size: int) -> str:
    saved = ", ".join(f"n{index}: 1" for index in range(size))
    read = "".join(
        '  - {action: log, message: "{{ '
        + " ~ ".join(f"n{index}" for index in range(first, first + 300))
        + ' }}"}\n'
        for first in range(0, size, 300)
    )
    first = f"a, run: [{{action: set, set: {{{saved}}}}}], rule: [{{case: default, run: [b]}}]"
    return steps([first]) + f"- name: b\n  run:\n{read}"


def called_tasks(size: int) -> str:
    """Return tasks that each call the next one twice, and steps that call three tasks."""
    tasks = "".join(
        f"- {{name: t{index}, run: [t{index + 1}, t{index + 1},"
        f' {{action: set, set: {{v{index}: "{{{{ v{index + 1} }}}}"}}}}]}}\n'
        for index in range(31)
    )
    lines = (f"s{index}, run: [t0, t1, t2]{rule_to_next(index, size - 1)}" for index in range(size))
    return f"tasks:\n{tasks}- {{name: t31, run: [{OK}]}}\n" + steps(lines)


def racing_branches(size: int, names: int) -> str:
    saved = ", ".join(f"x{index}: 1" for index in range(names))
    fork = f"f, rule: [{{case: default, run: [{', '.join(f'b{index}' for index in range(size))}]}}]"
    return steps([fork, *(f"b{index}, run: [{{action: set, set: {{{saved}}}}}]" for index in range(size))])


def sink_steps(action: str, text: Callable[[int], str], number: int = 15) -> str:
    words = "".join(map(text, range(900)))
    return steps(f"s{index}, run: [{{action: {action}: '{words}'}}]" for index in range(number))


def nested(loop_variable: str) -> str:
    return f"{{% for {loop_variable} in y %}}" * 40 + "x" + "{% endfor %}" * 40


TEXTS: dict[str, Callable[[], str]] = {
    # Documents.
    "deep lists": lambda: "steps: " + "[" * 200_000,
    "many deep lists": lambda: "steps:\n" + f"- {'[' * 60}{']' * 60}\n" * 8_000,
    "aliases of aliases": lambda: (
        "a: &a [x]\n"
        + "".join(
            f"{chr(98 + index)}: &{chr(98 + index)} [{', '.join([f'*{chr(97 + index)}'] * 9)}]\n"
            for index in range(9)
        )
    ),
    "keys that are there already": lambda: (
        "steps: []\n" + "".join(f"a{index % 3}: 1\n" for index in range(90_000))
    ),
    "values of the wrong type": lambda: (
        "steps:\n" + "- {name: [1], run: 7, rule: x, loop: 5, retry: []}\n" * 15_000
    ),
    "a huge number": lambda: steps([f"s, max_visits: {'9' * 900_000}, run: [{OK}]"]),
    "unknown keys": lambda: steps(
        f"s{index}, run: [{{action: htpp, ulr: x}}, {{action: http, mehtod: y}}], rlue: []"
        for index in range(9_000)
    ),
    # Templates.
    "deep brackets": lambda: rule(["(" * 500 + "x" + ")" * 500]),
    "deep negation": lambda: rule(["not " * 5_000 + "x"]),
    "a huge constant": lambda: rule(["x == " + "9" * 5_000]),
    "a huge guard": lambda: rule([" or ".join(f"(x{n % 50} and y{n % 31})" for n in range(3_000))]),
    "huge texts": lambda: logging_steps(
        28, lambda index: "".join(f"{{{{ a{index}_{n} + 1 }}}} " for n in range(1_300))
    ),
    "many alternatives": lambda: logging_steps(
        40,
        lambda index: (
            f"{{% if a{index} %}}"
            + "".join(f"{{% elif x{n} is defined and y{n} %}}{{{{ z{n} }}}}" for n in range(330))
            + "{% endif %}"
        ),
    ),
    "loops in loops": lambda: logging_steps(700, lambda index: nested(f"x{index}")),
    "conditions in conditions": lambda: logging_steps(
        1_100,
        lambda index: (
            "{{ "
            + "".join(f"(x{n} if x{n} is defined else " for n in range(28))
            + f"y{index}"
            + ")" * 28
            + " }}"
        ),
    ),
    "rows of filters": lambda: logging_steps(1_500, lambda index: f"{{{{ a{index}{'|upper' * 90} }}}}"),
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
    "many values": lambda: choosing_steps(
        100, lambda index, n: f"e in ['v{index}', 'v{n}'] and e != 'v{n + 1}'", _enum(9_000)
    ),
    "many comparisons": lambda: choosing_steps(
        110, lambda index, n: f"e{n % 3} == 'v{index}' or (e{n % 2} > {n} and e{(n + 1) % 3} < {n + 5})"
    ),
    "much that is implied": lambda: choosing_steps(
        80,
        lambda _, n: f"(x{n} is defined or y{n} is defined) and (y{n} is defined or z{n}) and (z{n} or x{n})",
    ),
    # Graphs.
    "all steps lead to all that follow": lambda: fork_to_later_steps(500),
    "all steps lead to all": lambda: fork_to_all_steps(400),
    "branches that cross": lambda: crossing_branches(4_000),
    "cycles within cycles": lambda: cycles_within_cycles(3_000),
    "joins of every kind": lambda: join_modes(3_000),
    "branches that take turns": lambda: sequential_branches(2_200),
    "a graph by chance": lambda: random_graph(3_000),
    "branches that race": lambda: racing_branches(1_000, 60),
    # Names.
    "misspelt names": lambda: misspelt_names(6_000),
    "misspelt steps": lambda: steps(
        f"step_number_{index}, rule: [{{case: default, run: [stp_number_{index + 1}]}}]"
        for index in range(9_900)
    ),
    "cases that are never taken": lambda: dead_cases(6_000),
    "steps that read each other": lambda: visits_read(5_500),
    "tasks that call tasks": lambda: called_tasks(6_000),
    # Sinks.
    "quoted words in a query": lambda: sink_steps(
        "postgres, connection: c, query", lambda n: f"''{{{{ a{n} }}}}'', $x$ /* -- {{{{ b }}}} */ "
    ),
    "quoted words in a command": lambda: sink_steps(
        "shell, command", lambda n: f'"$(echo `{{{{ a{n} }}}}`)" <<E {{{{ b }}}} '
    ),
    "commands in commands": lambda: steps(
        f"s{index}, run: [{{action: shell, command: 'echo {'$(' * 20_000}{{{{ a }}}}{')' * 20_000}'}}]"
        for index in range(16)
    ),
}
"""Functions that build the texts, by name."""


def _enum(size: int) -> str:
    return f"input: {{e: {{enum: [{', '.join(f'v{n}' for n in range(size))}]}}}}\n"


def text_of(name: str) -> str:
    """Return a text by its name."""
    return f"name: hostile\n{TEXTS[name]()}"


def ordinary_playbook(size: int) -> str:
    """Return a chain of ordinary steps with about `size` bytes, within the limit of a playbook."""
    return SHAPES["chain"](max(2, min(size, MAX_BYTES - 1_000) // 258))


def measure(names: Iterable[str] = TEXTS, repetitions: int = 3) -> list[dict[str, Any]]:
    """Return a row for each text."""
    catalogue()
    return [_row(name, repetitions) for name in names]


def _row(name: str, repetitions: int) -> dict[str, Any]:
    text = text_of(name)
    codes = Counter(finding.code for finding in compile_playbook(text, catalogue()).diagnostics)
    times = [
        median_seconds(
            lambda: compile_playbook(playbook, catalogue()),  # noqa: B023
            repetitions,
        )
        for playbook in (text, ordinary_playbook(len(text)))
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
    parser.add_argument("names", nargs="*", metavar="TEXT", help=f"texts to compile: {', '.join(TEXTS)}")
    parser.add_argument("--all-names", action="store_true", help="measure all names of expressions instead")
    parser.add_argument("--dearest", type=int, metavar="N", help="of all names, only the dearest N")
    options = parser.parse_args()
    if options.dearest:
        hostile_names.print_dearest(hostile_names.cases(), options.dearest)
        return
    if options.all_names:
        hostile_names.print_measurements(hostile_names.cases())
        return
    rows = measure(options.names or TEXTS)
    print(report.table("Hostile texts", COLUMNS, rows))
    if not options.names:
        print(report.table("Hostile expressions", hostile_expressions.COLUMNS, hostile_expressions.measure()))


if __name__ == "__main__":
    main()
