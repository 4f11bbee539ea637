"""The commands `noetl cache …`, on a store and on a service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.api.cli.conftest import Command
from tests.api.cli.test_cli_url import ServedStore
from tests.e2e.test_serve import run_service

TEXT = """\
name: rates
input: {area: {type: string, default: north}}
steps:
  - name: load
    run: [{action: set, set: {rate: "{{ input.area | length }}"}, cache: {key: "{{ input.area }}", ttl: 2h}}]
"""


@pytest.fixture
def playbook(folder: Path) -> str:
    (folder / "rates.yaml").write_text(TEXT)
    return "rates.yaml"


def test_results_are_listed_and_deleted(noetl: Command, playbook: str) -> None:
    for area in ("north", "south", "north"):
        assert noetl("run", "--quiet", playbook, "-i", f"area={area}").exit_code == 0
    lines = noetl("cache", "list").out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"[0-9a-f]{12}  rates  load  south  .* ago  for [12] h .*  \d+  \w+", lines[0])
    listed = noetl("cache", "list", "--key", "no", "--json").json
    assert [entry["label"] for entry in listed["items"]] == ["north"]
    assert noetl("cache", "list", "--limit", "1").err == "the newest 1 results; there are more\n"
    assert noetl("cache", "clear", "--older-than", "1h").err == "0 cached results are deleted\n"
    assert (
        noetl("cache", "clear", "--playbook", "rates", "--key", "no").err == "1 cached results are deleted\n"
    )
    assert noetl("cache", "clear", "--json").json == {"cleared": 1}
    assert noetl("cache", "list").err == "no cached results\n"


def test_a_step_shows_where_its_result_comes_from(noetl: Command, playbook: str) -> None:
    first, second = (noetl("run", "--quiet", "--json", playbook) for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0)
    shown = noetl("runs", "show", "last", "--step", "load").out
    assert re.search(r"✓ run\.0  set  from the cache: run \w+, .* ago", shown)


def test_a_wrong_age_is_refused(noetl: Command) -> None:
    result = noetl("cache", "list", "--older-than", "soon")
    assert (result.exit_code, result.err) == (
        2,
        "noetl: --older-than must be a duration such as 1h or 2d, not soon\n",
    )


def test_a_run_says_what_came_from_the_cache(noetl: Command, playbook: str) -> None:
    first, second = noetl("run", playbook).err, noetl("run", playbook).err
    assert "from the cache" not in first
    lines = {line.split()[1]: line for line in second.splitlines() if line.startswith("✓")}
    assert lines["load"].endswith("  1 action from the cache")


def test_a_dry_run_says_that_a_result_may_be_cached(noetl: Command, playbook: str) -> None:
    lines = noetl("run", playbook, "--dry-run").out.splitlines()
    assert "    run.0  set  unless a result of the last 2 h 0 m is cached" in lines


def test_a_service_has_the_results_of_its_store(
    noetl: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("service")
    with run_service(folder) as (_, url):
        service = ServedStore(url, folder)
        service.start(TEXT, "succeeded")
        local = noetl("cache", "list", "--json", "--store", service.store)
        remote = noetl("cache", "list", "--json", "--url", url, "--step", "load", "--limit", "5")
        assert local.json == remote.json
        assert len(local.json["items"]) == 1
        cleared = noetl("cache", "clear", "--url", url, "--older-than", "0s", "--key", "north")
        assert cleared.err == "1 cached results are deleted\n"
        assert noetl("cache", "list", "--url", url).err == "no cached results\n"
