"""Verdicts on switches: `python -m benchmarks.continuation [--pairs N]`.

Measures how long the verdict on a run of 1,000 steps with 100 live branches takes, with the analyses of the
new version cached. In one version a live step was corrected. In the next, the text of a done step was changed
as well, and in the last what it saves, so that all that is left of the run is analysed.
Then it explores what follows after the switches of N random pairs of versions, and counts verdicts.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from functools import partial

from benchmarks.measure import median_seconds
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.continuation.judge import may_continue
from noetl.planner.continuation.switch_state import BranchPosition, DoneStep, Switch, SwitchState
from noetl.planner.plan import Plan
from tests.switch_pairs import TooManyStatesError, find_violation, random_cases

STEPS = 1_000
BRANCHES = 100
REPETITIONS = 15
PAIRS = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=PAIRS)
    arguments = parser.parse_args()
    for change, seconds in measure_times(STEPS, BRANCHES, REPETITIONS).items():
        print(f"{STEPS} steps, {BRANCHES} branches, {change}: {seconds * 1_000:.1f} ms")
    print(count_verdicts(arguments.pairs))


def measure_times(steps: int, branches: int, repetitions: int) -> dict[str, float]:
    """Return the median seconds of a verdict, by what has changed."""
    known = catalogue()
    old, position = compile_fan(steps, branches), position_of(steps, branches)
    changed = {
        "a live step corrected": compile_fan(steps, branches, live="corrected"),
        "text of a done step, too": compile_fan(steps, branches, live="corrected", done="changed"),
        "what a done step saves": compile_fan(steps, branches, live="corrected", saved="more"),
    }
    seconds = {}
    for change, new in changed.items():
        assert may_continue(old, new, position, Switch(), known).is_yes
        seconds[change] = median_seconds(
            partial(may_continue, old, new, position, Switch(), known), repetitions
        )
    return seconds


def compile_fan(
    steps: int, branches: int, live: str = "m", done: str = "m", saved: str | None = None
) -> Plan:
    """Return the plan of a chain that forks into branches of two steps, which join."""
    first = steps - 2 * branches - 1
    written = []
    for index in range(first):
        targets = [f"s{index + 1}"] if index + 1 < first else [f"b{branch}" for branch in range(branches)]
        message = done if index == 0 else f"{{{{ n{index - 1} }}}}"
        written.append(_step(f"s{index}", message, targets, f"n{index}"))
    if saved is not None:
        written[0]["run"] = [_log(done, "n0"), {"action": "set", "set": {saved: 1}}]
    for branch in range(branches):
        written.append(_step(f"b{branch}", f"{live} {{{{ n{branch} }}}}", [f"c{branch}"], f"m{branch}"))
        written.append(_step(f"c{branch}", f"{{{{ m{branch} }}}}", ["end"]))
    written.append(_step("end", "{{ n0 }}", []))
    text = json.dumps({"name": "fan", "input": {}, "steps": written})
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    return plan


def _step(name: str, message: str, targets: list[str], saved: str | None = None) -> dict[str, object]:
    return {"name": name, "run": [_log(message, saved)], "rule": [{"case": "default", "run": targets}]}


def _log(message: str, saved: str | None) -> dict[str, object]:
    return {"action": "log", "message": message, **({"as": saved} if saved else {})}


def position_of(steps: int, branches: int) -> SwitchState:
    """Return the state of a run of which all branches stand behind the fork."""
    first = steps - 2 * branches - 1
    names = {f"n{index}": (index + 1, f"v{index}") for index in range(first)}
    live = tuple(BranchPosition(f"b{branch}", first + 1, names) for branch in range(branches))
    return SwitchState(live, {f"s{index}": DoneStep(1, index + 1) for index in range(first)})


def count_verdicts(pairs: int) -> dict[str, int]:
    """Return how many switches of random pairs have each verdict, and which were right."""
    counts: Counter[str] = Counter()
    for seed in range(pairs):
        for case in random_cases(seed):
            verdict = may_continue(case.old, case.new, case.read_state(), case.switch, catalogue())
            try:
                violation = find_violation(case)
            except TooManyStatesError:
                counts["too many states"] += 1
                continue
            answer = "yes" if verdict.is_yes else "no"
            counts[f"{answer}, {'violation' if violation else 'no violation'}"] += 1
            if answer == "no" and violation is None:
                code = verdict.reasons[0].code if verdict.reasons else "values"
                counts[f"needless {code}"] += 1
    return dict(sorted(counts.items()))


if __name__ == "__main__":
    main()
