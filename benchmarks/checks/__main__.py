"""Accuracy of the checks: `python -m benchmarks.checks`.

Measures, prints tables and writes `benchmarks/checks.json`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity

from benchmarks import report
from benchmarks.checks import agreement, mutants
from benchmarks.checks.chance import by_chance
from benchmarks.checks.corpus import Sound, written
from benchmarks.checks.generator import generated

RESULTS = Path(__file__).parents[1] / "checks.json"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    seeds = range(options.seed, options.seed + max(options.generated, options.chance))
    sound = [Sound("generated", str(seed), generated(seed)) for seed in seeds[: options.generated]]
    chance = [Sound("chance", str(seed), by_chance(seed)) for seed in seeds[: options.chance]]
    valid = [*written(), *sound][: options.valid]

    rows, odd = mutants.measure(valid, options.sites)
    counts = [row.to_json() for row in (*rows, mutants.total(rows))]
    print(report.table("Mutants of valid playbooks, by operator", report.MUTANTS, counts))
    on_valid = _valid(valid)
    print(report.table("Valid playbooks, and what the compiler says to them", report.VALID, on_valid))
    agreements = {"valid": agreement.measure(valid), "by chance": agreement.measure(chance)}
    agreed = [{"of": name, **found.to_json()} for name, found in agreements.items()]
    print(
        report.table(
            "Diagnostics and runs: which are confirmed, and which failures are not diagnosed",
            report.AGREEMENT,
            agreed,
        )
    )
    for found in agreed:
        for verdict in ("confirmed", "refuted", "undecided", "untold"):
            by_code = ", ".join(f"{code} {number:,}" for code, number in found[verdict].items())
            print(f"{found['of']}, {verdict}: {by_code or 'none'}")
    last_seed = seeds[-1] if seeds else options.seed
    print(f"\nSeeds {options.seed} to {last_seed}; {options.sites} places for each operator and playbook.")
    _show(odd, agreements, options.show)
    settings = {"seed": options.seed, "sites": options.sites, "generated": len(sound), "chance": len(chance)}
    report.write(
        options.results, {"settings": [settings], "mutants": counts, "valid": on_valid, "agreement": agreed}
    )
    print(f"Written to {options.results}.")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checks", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="where the seeds begin")
    parser.add_argument(
        "--sites", type=int, default=3, help="at how many places of a playbook an operator is tried"
    )
    parser.add_argument("--generated", type=int, default=300, help="how many sound playbooks are made")
    parser.add_argument("--chance", type=int, default=5_000, help="how many playbooks are made by chance")
    parser.add_argument(
        "--valid", type=int, default=None, help="at most how many valid playbooks are looked at"
    )
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        help="how many mutants that were judged wrongly are shown, of each operator",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the results are written")
    return parser.parse_args(arguments)


def _valid(playbooks: Sequence[Sound]) -> list[dict[str, Any]]:
    """Return the number of valid playbooks from each source, and of their diagnostics by severity."""
    found: dict[str, Counter[str]] = {}
    for playbook in playbooks:
        counts = found.setdefault(playbook.source, Counter())
        counts["playbooks"] += 1
        counts.update(d.severity.value for d in compile_playbook(playbook.text, catalogue()).diagnostics)
    severities = [severity.value for severity in Severity]
    return [
        {"source": name, **{key: counts[key] for key in ("playbooks", *severities)}}
        for name, counts in found.items()
    ]


def _show(odd: Sequence[mutants.Judged], agreements: dict[str, agreement.Agreement], most: int) -> None:
    shown: Counter[str] = Counter()
    for mutant in odd:
        shown[mutant.operator] += 1
        if shown[mutant.operator] <= most:
            said = [
                f"{d.span.line}:{d.span.column} {d.severity} {d.code} {d.message}" for d in mutant.said
            ] or ["nothing"]
            wrong = "; ".join(mutant.worse) or ("outside the language" if mutant.is_outside else "nothing")
            print(f"\n--- {mutant.operator} of {mutant.sound.source} {mutant.sound.name}\n{mutant.text}")
            print(f"execution: {wrong}\ncompiler: {'; '.join(said)}\nright places: {sorted(mutant.places)}")
    for found in agreements.values():
        for disagreement in found.disagreements[:most]:
            print(f"\n--- {disagreement.playbook}: {disagreement.description}\n{disagreement.text}")


if __name__ == "__main__":
    main()
