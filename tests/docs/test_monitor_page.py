"""The page about monitoring names every metric, and its files are valid for Prometheus."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from noetl.api.service.metrics import PROMETHEUS_TYPE, Scrape
from noetl.api.service.store_latency import StoreLatency
from noetl.executor.model.metrics import FactKind, FactTotal, StoreMetrics
from tests.prometheus import find_program

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md").read_text("utf-8")
METRIC = re.compile(r"\bnoetl_[a-z_]+[a-z]")


def shown_metrics() -> dict[str, set[str]]:
    """Return the labels of each metric of a scrape, by the name that the page has for it."""
    totals = [FactTotal("p", kind, "succeeded", 0, 1, 1.0) for kind in FactKind]
    latency = StoreLatency()
    latency.record("runs", 0.1)
    metrics = StoreMetrics(totals, 0, None, 0, 0)
    scrape = Scrape(metrics, 0.0, has_playbooks=True)
    text = scrape.text(latency, PROMETHEUS_TYPE)
    return {
        family.name + ("_total" if family.type == "counter" else ""): {
            label for sample in family.samples for label in sample.labels
        }
        - {"le"}
        for family in text_string_to_metric_families(text.decode())
    }


def test_the_table_has_every_metric_with_its_labels() -> None:
    rows = re.findall(r"^\| `(noetl_\w+)` \| ([^|]*)\|", PAGE, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == shown_metrics()


def test_queries_and_alerts_name_metrics_that_exist() -> None:
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in METRIC.findall(PAGE)}
    assert names == shown_metrics().keys()


def test_prometheus_accepts_the_files_of_the_page(tmp_path: Path) -> None:
    for name, text in re.findall(r'```yaml title="([^"]+)"\n(.*?)```', PAGE, re.DOTALL):
        (tmp_path / name).write_text(text)
    (tmp_path / "noetl.key").write_text("noetl_0_0")
    # `check config` reads the file of the rules, too.
    command = [find_program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "SUCCESS: 7 rules found" in checked.stdout
    queries = re.findall(r"^\| [^|`]+ \| `([^`]+)` \|$", PAGE, re.MULTILINE)
    assert len(queries) == 4
    rules = "".join(f"  - {{record: 'r{n}', expr: '{query}'}}\n" for n, query in enumerate(queries))
    (tmp_path / "queries.yml").write_text(f"groups:\n- name: page\n  rules:\n{rules}")
    command = [find_program("promtool"), "check", "rules", str(tmp_path / "queries.yml")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
