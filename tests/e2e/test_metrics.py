"""Metrics of two services and two workers, one of them killed, as a real Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

import httpx

from benchmarks.metrics import MIXED, count_in_tables, differences, mixed_runs, read_counters
from tests.prometheus import running_prometheus


def test_counters_are_those_of_the_tables_after_a_worker_was_killed(
    tmp_path: Path, postgres_dsn: str
) -> None:
    with mixed_runs(postgres_dsn, len(MIXED), tmp_path) as (urls, store):
        counted = count_in_tables(store)
        for url in urls:
            assert differences(read_counters(httpx.get(f"{url}/metrics").text), counted) == {}
        assert counted["noetl_lost_leases_total held"] >= 1
        assert counted["noetl_step_retries_total retries"] == 2
        with running_prometheus(tmp_path, [url.removeprefix("http://") for url in urls]) as prometheus:
            ended = {
                name.removeprefix("noetl_runs_ended_total "): value
                for name, value in counted.items()
                if name.startswith("noetl_runs_ended_total ")
            }
            assert len(ended) == len(MIXED) + 1
            # Both services say the same, so one is enough for each series.
            query = "max by (playbook, status) (noetl_runs_ended_total)"
            assert prometheus.wait_for(query, ended) == ended
            assert prometheus.wait_for("sum(up)", {"": 2.0}) == {"": 2.0}
            query = "max by (le) (noetl_step_duration_seconds_bucket)"
            steps = {
                name.removeprefix("noetl_step_duration_seconds_bucket "): value
                for name, value in counted.items()
                if name.startswith("noetl_step_duration_seconds_bucket ")
            }
            assert steps.items() <= prometheus.wait_for(query, steps).items()
