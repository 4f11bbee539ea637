"""Playbooks of any size, with graphs of different shapes.

Steps look like those that people write: an action with templates over earlier results, a case that
continues, and a case for failures, which leads to the same handler in all steps.
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
    """Return a chain of steps."""
    return _playbook((index, [index + 1] if index + 2 < steps else []) for index in range(steps - 1))


def ladder(steps: int) -> str:
    """Return diamonds in a row: a fork into two steps, and a third step that joins them and forks again."""
    return _playbook(_ladder(steps - 1))


def wide(steps: int) -> str:
    """Return forks into a hundred steps in a row, each joined before the next one."""
    return _playbook(_wide(steps - 1, WIDTH))


def nested(steps: int) -> str:
    """Return blocks in a row, each of forks nested six deep."""
    return _playbook(_nested(steps - 1, DEPTH))


SHAPES: dict[str, Callable[[int], str]] = {"chain": chain, "ladder": ladder, "wide": wide, "nested": nested}


def set_chain(steps: int, result_bytes: int = 0) -> str:
    """Return a chain whose steps increment a number, or rotate a text of `result_bytes`."""
    first, value, last = ("1", "x + 1", "x")
    if result_bytes:
        first, value, last = (f"'x' * {result_bytes}", "x[1:] ~ x[0]", "x | length")
    lines = ["name: chain", "steps:"]
    for index in range(steps):
        rule = f", rule: [{{case: default, run: [s{index + 1}]}}]" if index + 1 < steps else ""
        expression = value if index else first
        lines.append(
            f'- {{name: s{index}, run: [{{action: set, set: {{x: "{{{{ {expression} }}}}"}}}}]{rule}}}'
        )
    return "\n".join([*lines, f'output: {{last: "{{{{ {last} }}}}"}}', ""])


def text_chain(steps: int) -> str:
    """Return a playbook whose steps each read the result of the step before."""
    lines = ["name: cost", "input: {text: string}", "steps:"]
    for number in range(steps):
        previous = "input.text" if number == 0 else f"r{number - 1}"
        value = f"{{{{ {previous}[7:] ~ {previous}[:7] }}}}"
        rule = f", rule: [{{case: default, run: [s{number + 1}]}}]" if number + 1 < steps else ""
        lines.append(f'- {{name: s{number}, run: [{{action: set, set: {{r{number}: "{value}"}}}}]{rule}}}')
    return "\n".join(lines)


def fan_out(branches: int, result_bytes: int = 0) -> str:
    """Return a fork whose branches save a number, or a text of `result_bytes`, and a join."""
    names = ", ".join(f"b{index}" for index in range(branches))
    lines = ["name: fan_out", "steps:", f"- name: fork\n  rule: [{{case: default, run: [{names}]}}]"]
    for index in range(branches):
        value = f"\"{{{{ 'x' * {result_bytes} }}}}\"" if result_bytes else f"{index}"
        lines.append(f"- name: b{index}\n  run: [{{action: set, set: {{v{index}: {value}}}}}]")
        lines.append("  rule: [{case: default, run: [join]}]")
    total = f"(v0 | string | length) + (v{branches - 1} | string | length)"
    lines.append(f'- name: join\n  run: [{{action: set, set: {{total: "{{{{ {total} }}}}"}}}}]')
    return "\n".join([*lines, 'output: {total: "{{ total }}"}', ""])


def _playbook(edges: Edges) -> str:
    dominators: dict[int, int] = {}
    steps = []
    for index, targets in edges:
        steps.append(_step(index, targets, dominators.get(index)))
        for target in targets:
            dominators[target] = _last_common(dominators, dominators.get(target, index), index)
    return HEADER + "".join(steps) + HANDLER


def _last_common(dominators: Mapping[int, int], first: int, second: int) -> int:
    """Return the last step that all paths to two steps have in common. Steps are in topological order."""
    while first != second:
        first, second = min(first, second), dominators[max(first, second)]
    return first


def _step(index: int, targets: Sequence[int], dominator: int | None) -> str:
    """Return a step that reads the result of its immediate dominator."""
    earlier = "input.user_id" if dominator is None else f"reply_{dominator}.status"
    url = f"{{{{ environment.base_url }}}}/items/{{{{ {earlier} }}}}"
    run = ", ".join(f"step_{target}" for target in targets)
    return (
        f"- name: step_{index}\n"
        "  run:\n"
        f'    - {{action: http, url: "{url}", as: reply_{index}}}\n'
        "  rule:\n"
        f'    - case: "{{{{ reply_{index}.body.items | length > 0 }}}}"\n'
        f"      run: [{run}]\n"
        '    - case: "{{ error }}"\n'
        "      run: [report]\n"
    )


def _ladder(steps: int) -> Edges:
    for index in range(0, steps, 3):
        last = steps - 1
        yield index, [target for target in (index + 1, index + 2) if target <= last]
        for branch in (index + 1, index + 2):
            if branch <= last:
                yield branch, [index + 3] if index + 3 <= last else []


def _wide(steps: int, width: int) -> Edges:
    for index in range(0, steps, width + 1):
        branches = range(index + 1, min(index + width + 1, steps))
        join = index + width + 1
        yield index, branches
        for branch in branches:
            yield branch, [join] if join < steps else []


def _nested(steps: int, depth: int) -> Edges:
    size = 3 * 2**depth - 2
    for first in range(0, steps, size):
        after = first + size
        for index, targets in _block(first, depth, after):
            if index < steps:
                yield index, [target for target in targets if target < steps]


def _block(first: int, depth: int, after: int) -> Edges:
    """Yield the edges of a block: a fork at `first`, two inner blocks, and a join that leads to `after`."""
    if depth == 0:
        yield first, [after]
        return
    size = 3 * 2 ** (depth - 1) - 2
    join = first + 1 + 2 * size
    yield first, [first + 1, first + 1 + size]
    yield from _block(first + 1, depth - 1, join)
    yield from _block(first + 1 + size, depth - 1, join)
    yield join, [after]
