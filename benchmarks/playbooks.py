"""Playbooks of any size, in the shapes that graphs of steps have.

Steps look like those people write: an action with templates over what earlier steps saved, a case that goes on, and one
for failures, which in all steps leads to the same handler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

HEADER = """\
name: generated
input: {user_id: integer}
environment: {base_url: "https://api.example.com"}
on_error: continue
steps:
"""
HANDLER = """\
- name: report
  run:
    - {action: log, level: error, message: "{{ step.name }} was reached after a failure"}
"""
WIDTH = 100
DEPTH = 6

Edges = Iterator[tuple[int, Sequence[int]]]


def chain(steps: int) -> str:
    """One step after another."""
    return _playbook((at, [at + 1] if at + 2 < steps else []) for at in range(steps - 1))


def ladder(steps: int) -> str:
    """Diamonds in a row: a fork into two steps, which a third joins and forks again."""
    return _playbook(_ladder(steps - 1))


def wide(steps: int) -> str:
    """Forks into a hundred steps in a row, each joined before the next."""
    return _playbook(_wide(steps - 1, WIDTH))


def nested(steps: int) -> str:
    """Forks within forks, six deep, joined from the inside out; one such block after another."""
    return _playbook(_nested(steps - 1, DEPTH))


SHAPES: dict[str, Callable[[int], str]] = {"chain": chain, "ladder": ladder, "wide": wide, "nested": nested}


def set_chain(steps: int, result_bytes: int = 0) -> str:
    """A chain of steps that each add one to what the step before has saved, or turn a text of so many bytes by one sign."""
    first, value, last = ("1", "x + 1", "x")
    if result_bytes:
        first, value, last = (f"'x' * {result_bytes}", "x[1:] ~ x[0]", "x | length")
    lines = ["name: chain", "steps:"]
    for at in range(steps):
        goes_on = f", rule: [{{case: default, run: [s{at + 1}]}}]" if at + 1 < steps else ""
        expression = value if at else first
        lines.append(
            f'- {{name: s{at}, run: [{{action: set, set: {{x: "{{{{ {expression} }}}}"}}}}]{goes_on}}}'
        )
    return "\n".join([*lines, f'output: {{last: "{{{{ {last} }}}}"}}', ""])


def fan_out(branches: int, result_bytes: int = 0) -> str:
    """A fork into steps that each save a value, which may be a text of so many bytes, and one step that joins them."""
    names = ", ".join(f"b{at}" for at in range(branches))
    lines = ["name: fan_out", "steps:", f"- name: fork\n  rule: [{{case: default, run: [{names}]}}]"]
    for at in range(branches):
        value = f"\"{{{{ 'x' * {result_bytes} }}}}\"" if result_bytes else f"{at}"
        lines.append(f"- name: b{at}\n  run: [{{action: set, set: {{v{at}: {value}}}}}]")
        lines.append("  rule: [{case: default, run: [join]}]")
    total = f"(v0 | string | length) + (v{branches - 1} | string | length)"
    lines.append(f'- name: join\n  run: [{{action: set, set: {{total: "{{{{ {total} }}}}"}}}}]')
    return "\n".join([*lines, 'output: {total: "{{ total }}"}', ""])


def _playbook(edges: Edges) -> str:
    passed: dict[int, int] = {}
    steps = []
    for at, targets in edges:
        steps.append(_step(at, targets, passed.get(at)))
        for target in targets:
            passed[target] = _last_common(passed, passed.get(target, at), at)
    return HEADER + "".join(steps) + HANDLER


def _last_common(passed: Mapping[int, int], one: int, other: int) -> int:
    """The last step that the ways to two steps have in common. Steps are numbered in the order of the ways."""
    while one != other:
        one, other = min(one, other), passed[max(one, other)]
    return one


def _step(at: int, targets: Sequence[int], passed: int | None) -> str:
    """A step that reads what the last one saved that all ways to it have passed."""
    earlier = "input.user_id" if passed is None else f"reply_{passed}.status"
    run = ", ".join(f"step_{target}" for target in targets)
    return (
        f"- name: step_{at}\n"
        "  run:\n"
        f'    - {{action: http, url: "{{{{ environment.base_url }}}}/items/{{{{ {earlier} }}}}", as: reply_{at}}}\n'
        "  rule:\n"
        f'    - case: "{{{{ reply_{at}.body.items | length > 0 }}}}"\n'
        f"      run: [{run}]\n"
        '    - case: "{{ error }}"\n'
        "      run: [report]\n"
    )


def _ladder(steps: int) -> Edges:
    for at in range(0, steps, 3):
        last = steps - 1
        yield at, [target for target in (at + 1, at + 2) if target <= last]
        for branch in (at + 1, at + 2):
            if branch <= last:
                yield branch, [at + 3] if at + 3 <= last else []


def _wide(steps: int, width: int) -> Edges:
    for at in range(0, steps, width + 1):
        branches = range(at + 1, min(at + width + 1, steps))
        join = at + width + 1
        yield at, branches
        for branch in branches:
            yield branch, [join] if join < steps else []


def _nested(steps: int, depth: int) -> Edges:
    size = 3 * 2**depth - 2
    for first in range(0, steps, size):
        after = first + size
        for at, targets in _block(first, depth, after):
            if at < steps:
                yield at, [target for target in targets if target < steps]


def _block(first: int, depth: int, after: int) -> Edges:
    """A fork at `first`, two blocks, and the join behind them, which leads to `after`."""
    if depth == 0:
        yield first, [after]
        return
    size = 3 * 2 ** (depth - 1) - 2
    join = first + 1 + 2 * size
    yield first, [first + 1, first + 1 + size]
    yield from _block(first + 1, depth - 1, join)
    yield from _block(first + 1 + size, depth - 1, join)
    yield join, [after]
