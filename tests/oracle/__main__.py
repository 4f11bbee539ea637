"""Compares the executor with the interpreter on random playbooks, and prints what disagrees.

python -m tests.oracle --count 10000 --seed 1 --store memory --store sqlite --jobs 2
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path

from tests.oracle.comparison import Verdict
from tests.oracle.sample import SampleReport, judge_sample
from tests.oracle.stores import STORE_NAMES, open_store


def main() -> None:
    arguments = _parse_arguments()
    print(f"seed {arguments.seed}", flush=True)
    started = time.monotonic()
    seeds = list(range(arguments.seed, arguments.seed + arguments.count))
    size = max(1, min(250, arguments.count // (4 * arguments.jobs) or 1))
    chunks = [seeds[first : first + size] for first in range(0, len(seeds), size)]
    stores = arguments.store or ["memory"]
    counts: Counter[Verdict] = Counter()
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(_judge_chunk, chunk, stores, arguments.max_steps) for chunk in chunks]
        for future in as_completed(futures):
            report = future.result()
            counts += report.counts
            for number, disagreement in enumerate(report.disagreements):
                print(disagreement.describe(), flush=True)
                if arguments.cases:
                    _write_case(arguments.cases, disagreement.seed, number, disagreement.case.to_yaml())
    compiled = arguments.count - counts[Verdict.REJECTED]
    print(
        f"generated {arguments.count}, compiled {compiled}, judged {compiled - counts[Verdict.UNDECIDED]}, "
        f"agreed {counts[Verdict.AGREED]}, undecided {counts[Verdict.UNDECIDED]}, "
        f"depend on timing {counts[Verdict.TIMED]}, disagreed {counts[Verdict.DISAGREED]}, "
        f"in {time.monotonic() - started:.0f} s on {', '.join(stores)}"
    )
    raise SystemExit(counts[Verdict.DISAGREED] > 0)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="number of playbooks")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="seed of the first one")
    parser.add_argument("--store", action="append", choices=STORE_NAMES, help="a store; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--max-steps", type=int, default=14, help="the most steps of a playbook")
    parser.add_argument("--cases", type=Path, help="folder for shrunk playbooks")
    return parser.parse_args()


def _judge_chunk(seeds: list[int], store_names: list[str], max_steps: int) -> SampleReport:
    with ExitStack() as stack:
        stores = {name: stack.enter_context(open_store(name)) for name in store_names}
        return judge_sample(stores, seeds, max_steps)


def _write_case(folder: Path, seed: int, number: int, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed_{seed}_{number}.yaml").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
