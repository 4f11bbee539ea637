"""Command `python -m benchmarks.checks`.

It compares the compiler's diagnostics with exhaustive execution, prints tables and writes
`benchmarks/checks.json`.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.checks import agreement, mutants
from benchmarks.checks.chance import random_playbook
from benchmarks.checks.choices import choice_playbook
from benchmarks.checks.corpus import CorpusPlaybook, written_playbooks
from benchmarks.checks.generator import generate_playbook
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity

RESULTS = Path(__file__).parents[1] / "checks.json"
_VERDICTS = {"confirmed": "confirmed", "refuted": "refuted", "undecided": "undecided", "untold": "unreported"}
"""The keys of verdicts in the results, and their labels."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    seeds = range(options.seed, options.seed + max(options.generated, options.chance, options.choices))
    sound = [
        CorpusPlaybook("generated", str(seed), generate_playbook(seed)) for seed in seeds[: options.generated]
    ]
    chance = [CorpusPlaybook("chance", str(seed), random_playbook(seed)) for seed in seeds[: options.chance]]
    choices = [
        CorpusPlaybook("choice", str(seed), choice_playbook(seed)) for seed in seeds[: options.choices]
    ]
    valid = [*written_playbooks(), *sound][: options.valid]

    rows, misjudged = mutants.measure(valid, options.sites)
    counts = [row.to_json() for row in (*rows, mutants.total(rows))]
    print(report.table("Mutants of valid playbooks, by operator", report.MUTANTS, counts))
    on_valid = _valid(valid)
    print(report.table("Diagnostics of valid playbooks", report.VALID, on_valid))
    agreements = {"valid": agreement.measure(valid), "by chance": agreement.measure(chance)}
    agreements["of literals"] = agreement.measure(choices)
    agreed = [{"of": name, **result.to_json()} for name, result in agreements.items()]
    print(
        report.table(
            "Agreement of diagnostics and runs",
            report.AGREEMENT,
            agreed,
        )
    )
    for row in agreed:
        for key, label in _VERDICTS.items():
            numbers = ", ".join(f"{code} {number:,}" for code, number in row[key].items())
            print(f"{row['of']}, {label}: {numbers or 'none'}")
    last_seed = seeds[-1] if seeds else options.seed
    print(f"\nSeeds {options.seed} to {last_seed}; {options.sites} places per operator and playbook.")
    _show(misjudged, agreements, options.show)
    settings = {"seed": options.seed, "sites": options.sites, "generated": len(sound), "chance": len(chance)}
    settings["choices"] = len(choices)
    report.write(
        options.results, {"settings": [settings], "mutants": counts, "valid": on_valid, "agreement": agreed}
    )
    print(f"Written to {options.results}.")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checks", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument(
        "--sites",
        type=int,
        default=3,
        help="maximum number of places of a playbook at which an operator is tried",
    )
    parser.add_argument("--generated", type=int, default=300, help="number of generated valid playbooks")
    parser.add_argument("--chance", type=int, default=5_000, help="number of random playbooks")
    parser.add_argument("--choices", type=int, default=0, help="number of random playbooks about literals")
    parser.add_argument("--valid", type=int, default=None, help="maximum number of valid playbooks")
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        help="maximum number of wrongly judged mutants to show for each operator",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="file for the results")
    return parser.parse_args(arguments)


def _valid(playbooks: Sequence[CorpusPlaybook]) -> list[dict[str, Any]]:
    """Return the numbers of valid playbooks and of their diagnostics by severity, for each source."""
    counts_by_source: dict[str, Counter[str]] = {}
    for playbook in playbooks:
        counts = counts_by_source.setdefault(playbook.source, Counter())
        counts["playbooks"] += 1
        counts.update(d.severity.value for d in compile_playbook(playbook.text, catalogue()).diagnostics)
    severities = [severity.value for severity in Severity]
    return [
        {"source": name, **{key: counts[key] for key in ("playbooks", *severities)}}
        for name, counts in counts_by_source.items()
    ]


def _show(
    misjudged: Sequence[mutants.JudgedMutant], agreements: dict[str, agreement.Agreement], limit: int
) -> None:
    shown: Counter[str] = Counter()
    for mutant in misjudged:
        shown[mutant.operator] += 1
        if shown[mutant.operator] <= limit:
            messages = [
                f"{d.span.line}:{d.span.column} {d.severity} {d.code} {d.message}" for d in mutant.diagnostics
            ]
            wrong = "; ".join(mutant.worse) or ("outside the language" if mutant.is_outside else "nothing")
            print(
                f"\n--- {mutant.operator} of {mutant.playbook.source} {mutant.playbook.name}\n{mutant.text}"
            )
            print(f"execution: {wrong}\ncompiler: {'; '.join(messages) or 'nothing'}")
            print(f"right places: {sorted(mutant.places)}")
    for result in agreements.values():
        for disagreement in result.disagreements[:limit]:
            print(f"\n--- {disagreement.playbook}: {disagreement.description}\n{disagreement.text}")


if __name__ == "__main__":
    main()
