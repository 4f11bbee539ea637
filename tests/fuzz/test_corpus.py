"""The inputs of the corpus break no promise, and each planted fault is visible to its target."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, read_campaign
from tests.fuzz.planted import PLANTED
from tests.fuzz.targets import TARGETS

FILES = sorted(path.relative_to(CORPUS) for path in CORPUS.rglob("*") if path.is_file())


def test_each_target_has_a_corpus() -> None:
    assert {path.parts[0] for path in FILES} == set(TARGETS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_an_input_of_the_corpus_breaks_no_promise(path: Path) -> None:
    TARGETS[path.parts[0]].run((CORPUS / path).read_bytes())


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_breaks_a_promise(name: str) -> None:
    fault = PLANTED[name]
    run = TARGETS[fault.target].run
    run(fault.example)
    with fault.plant(), pytest.raises(Exception):  # noqa: B017 - any exception is a finding
        run(fault.example)


def test_the_seeds_do_not_show_the_planted_faults() -> None:
    for fault in PLANTED.values():
        with fault.plant():
            for path in (CORPUS / fault.target).glob("seed-*"):
                TARGETS[fault.target].run(path.read_bytes())


def test_the_counts_are_read_from_the_log_of_the_fuzzer(tmp_path: Path) -> None:
    for folder in ("inputs", "findings"):
        (tmp_path / folder).mkdir()
    (tmp_path / "inputs" / "1").touch()
    log = "#2\tINITED cov: 10 ft: 11\n#4096\tpulse  cov: 25 ft: 30\nstat::number_of_executed_units: 5000\n"
    assert read_campaign(log, tmp_path)[:-1] == (False, 5000, 25, 1, ())
    assert read_campaign(f"{log}#5000\tDONE   cov: 25 ft: 30\n", tmp_path).is_complete
