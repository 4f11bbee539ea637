"""The executor does what the interpreter of the reference allows, on random playbooks.

`NOETL_ORACLE_COUNT` changes the number of playbooks, and so do the profiles of `HYPOTHESIS_PROFILE`.
`python -m tests.oracle` judges many more.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from tests.aws import Client
from tests.oracle.comparison import OutcomeJudge, Verdict
from tests.oracle.execution import quiet_logs
from tests.oracle.run_case import CASES, RunCase
from tests.oracle.sample import SampleReport, judge_sample
from tests.oracle.seeds import seeds_of_chunk
from tests.oracle.stores import open_dynamo, open_postgres, open_sqlite
from tests.simulation.dynamo_backend import shorten_retry_pauses

COUNTS = {"brief": 80, "explore": 4000}
COUNT = int(os.environ.get("NOETL_ORACLE_COUNT", COUNTS.get(os.environ.get("HYPOTHESIS_PROFILE", ""), 400)))
CHUNKS = 8
SMALL_STEPS = 4
"""The most steps of playbooks on DynamoDB, where a step costs some requests to the emulator.

For the same reason, only half of the playbooks are run there.
"""


def assert_agreement(report: SampleReport) -> None:
    assert not report.disagreements, "\n".join(found.describe() for found in report.disagreements)
    judged = report.counts.total() - report.counts[Verdict.REJECTED] - report.counts[Verdict.UNDECIDED]
    assert judged > report.counts.total() // 2, report.counts


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_stores_do_what_the_reference_says(chunk: int, tmp_path: Path, postgres_store_dsn: str) -> None:
    with open_sqlite(tmp_path) as sqlite, open_postgres(postgres_store_dsn) as postgres:
        stores: dict[str, Store] = {"memory": MemoryStore(), "sqlite": sqlite, "postgres": postgres}
        assert_agreement(judge_sample(stores, seeds_of_chunk(chunk, COUNT // CHUNKS), max_steps=14, runs=1))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_dynamodb_does_what_the_reference_says(
    chunk: int, aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten_retry_pauses(monkeypatch)
    stores = {"dynamo": open_dynamo()}
    assert_agreement(judge_sample(stores, seeds_of_chunk(chunk, COUNT // CHUNKS // 2), SMALL_STEPS, runs=1))


@pytest.mark.parametrize("path", sorted(CASES.glob("*.yaml")), ids=lambda path: path.stem)
def test_cases_that_disagreed_agree(path: Path, tmp_path: Path) -> None:
    """Each file says first what had been wrong. `verdict: rejected` marks what the compiler now refuses."""
    text = path.read_text("utf-8")
    expected = Verdict(yaml.safe_load(text).get("verdict", Verdict.AGREED))
    with open_sqlite(tmp_path) as sqlite, quiet_logs():
        judge = OutcomeJudge({"memory": MemoryStore(), "sqlite": sqlite}, runs=8)
        judgement = judge.judge(RunCase.from_yaml(text), seed=1)
    assert judgement.verdict is expected, judgement
