"""`python -m tests.recipes`: perform the recipes of CONTRIBUTING.md in a scratch clone.

    python -m tests.recipes                # all of them, as in CI
    python -m tests.recipes action route   # those whose page has one of these words in its name

A recipe fails if a step cannot be performed, or if a file changes that its row does not list. Then the checks
and tests run once, for all recipes together. If they fail, perform one recipe at a time to see which it is.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.recipes.performance import Performance, perform_all
from tests.style.source import ROOT


def print_table(performed: list[Performance]) -> None:
    """Print a row for each recipe."""
    print(f"\n{'recipe':<24}{'files':>6}{'seconds':>9}")
    for result in performed:
        print(
            f"{result.title:<24}{len(result.files):>6}{result.seconds:>9.1f}",
            *["FAILED"][: len(result.problems)],
        )


def main(words: list[str]) -> int:
    """Perform the recipes, and print problems and a table. Return the exit code."""
    performed = []
    with tempfile.TemporaryDirectory(prefix="noetl-recipes-") as folder:
        for result in perform_all(ROOT, Path(folder), dict.fromkeys(words)):
            performed.append(result)
            for problem in result.problems:
                print(f"{result.title}\n  {problem}\n", flush=True)
    print_table(performed)
    if not performed:
        print("no recipe has such a page")
    return int(not performed or any(result.problems for result in performed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
