"""The comparison on a sample of random playbooks. Each disagreement is reduced to a small playbook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from noetl.executor.stores.interface import Store
from tests.oracle.comparison import Judgement, OutcomeJudge, Verdict
from tests.oracle.execution import quiet_logs
from tests.oracle.generator import generate
from tests.oracle.run_case import RunCase
from tests.oracle.shrinking import shrink

RUNS_TO_SHRINK = 6
"""The number of random orders in which a smaller playbook may show that it disagrees."""


@dataclass(frozen=True)
class OutcomeDisagreement:
    """A playbook that disagrees, reduced, with the seed that generated it."""

    seed: int
    case: RunCase
    judgement: Judgement

    def describe(self) -> str:
        found = self.judgement
        return "\n".join(
            [
                f"# seed {self.seed}, {found.store}: {found.reason}",
                self.case.to_yaml().rstrip(),
                f"# executed: {found.executed}",
                *(f"# allowed:  {outcome}" for outcome in found.allowed[:4]),
                f"# repeat with: python -m tests.oracle --count 1 --seed {self.seed}",
                "",
            ]
        )


@dataclass(frozen=True)
class SampleReport:
    """The number of playbooks by verdict, and those that disagree."""

    counts: Counter[Verdict]
    disagreements: tuple[OutcomeDisagreement, ...]


def judge_sample(
    stores: Mapping[str, Store], seeds: Iterable[int], max_steps: int, *, runs: int = 2
) -> SampleReport:
    """Judge the playbooks of these seeds on all stores, with a number of runs on each."""
    counts: Counter[Verdict] = Counter()
    disagreements = []
    with quiet_logs():
        for seed in seeds:
            case = generate(seed, max_steps)
            judgement = OutcomeJudge(stores, runs).judge(case, seed)
            counts[judgement.verdict] += 1
            if judgement.verdict is Verdict.DISAGREED:
                disagreements.append(_reduce(stores, case, seed, judgement))
    return SampleReport(counts, tuple(disagreements))


def _reduce(
    stores: Mapping[str, Store], case: RunCase, seed: int, judgement: Judgement
) -> OutcomeDisagreement:
    """Return the disagreement with the smallest playbook that is found."""
    tried = {name: store for name, store in stores.items() if name == judgement.store}
    judge = OutcomeJudge(tried, RUNS_TO_SHRINK)
    smallest = shrink(case, lambda smaller: judge.judge(smaller, seed).verdict is Verdict.DISAGREED)
    found = judge.judge(smallest, seed)
    return OutcomeDisagreement(seed, smallest, found if found.verdict is Verdict.DISAGREED else judgement)
