"""Quotas of child runs and of active branches."""

from __future__ import annotations

import pytest

from noetl.executor.engine import quotas
from noetl.executor.engine.quotas import check_branch_quota, read_limit
from noetl.executor.errors import RejectedError, SettingError
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness, register_playbook

CHILDREN = """
    name: multiply
    steps:
    - name: a
      loop: {items: "{{ range(10) | list }}"}
      run: [{action: workflow, playbook: multiply, detach: true}]
"""
"""A playbook that starts itself ten times, as each of its child runs does."""


@pytest.fixture(autouse=True)
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "COUNT_SECONDS", 0.0)


def execute_all(harness: RunHarness) -> None:
    while harness.execute_next():
        pass


def test_a_run_that_starts_itself_ends_at_the_quota(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_MAX_CHILD_RUNS", "25")
    register_playbook(store, CHILDREN)
    harness = RunHarness(store, CHILDREN, origin="service")
    execute_all(harness)
    runs, _ = store.runs.find(RunFilter("default", limit=100))
    assert len(runs) == 26
    records = [store.runs.get("default", run.id) for run in runs]
    failed = [run.error for run in records if run is not None and run.error is not None]
    assert failed
    assert {error["type"] for error in failed} == {"LimitExceeded"}
    message = f"run {harness.id} and its child runs have started 25 runs (NOETL_MAX_CHILD_RUNS)"
    assert message in failed[0]["message"]
    other = RunHarness(store, CHILDREN, origin="service")
    assert other.execute_next()
    assert other.status != "failed"


def test_a_tenant_with_too_many_branches_starts_no_run(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_MAX_BRANCHES", "2")
    text = "steps: [{name: a, run: [{action: wait, seconds: 60}]}]"
    first = [RunHarness(store, text, origin="service") for _ in range(2)]
    with pytest.raises(RejectedError, match=r"has 2 branches .* \(NOETL_MAX_BRANCHES\)") as caught:
        check_branch_quota(store, "default", "service")
    assert (caught.value.reason, caught.value.details["limit"]) == ("quota_exceeded", 2)
    check_branch_quota(store, "other", "service")
    check_branch_quota(store, "default", first[0].id)
    first[0].finish()
    check_branch_quota(store, "default", "service")


PARENT = """
    steps:
    - name: a
      run: [{action: workflow, playbook: multiply, detach: %s}]
"""


@pytest.mark.parametrize("detached", ["true", "false"])
def test_a_tenant_with_too_many_branches_starts_no_child_run(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, detached: str
) -> None:
    monkeypatch.setenv("NOETL_MAX_BRANCHES", "1")
    register_playbook(store, CHILDREN)
    harness = RunHarness(store, PARENT % detached, origin="service")
    execute_all(harness)
    assert harness.error_types == ["LimitExceeded"]
    assert "NOETL_MAX_BRANCHES" in harness.run.errors[0]["message"]
    assert [run.id for run in store.runs.find(RunFilter("default"))[0]] == [harness.id]


def test_a_tenant_with_too_many_branches_resumes_no_child_run(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_playbook(store, "name: multiply\nsteps: [{name: a, run: [{action: fail, message: no}]}]")
    harness = RunHarness(store, PARENT % "false", origin="service")
    execute_all(harness)
    assert harness.error_types == ["WorkflowFailed"]
    harness.resume()
    monkeypatch.setenv("NOETL_MAX_BRANCHES", "1")
    execute_all(harness)
    assert harness.error_types == ["LimitExceeded"]
    (child,) = (run for run in store.runs.find(RunFilter("default"))[0] if run.id != harness.id)
    assert child.resumes == 0
    monkeypatch.setenv("NOETL_MAX_BRANCHES", "9")
    harness.resume()
    execute_all(harness)
    assert harness.error_types == ["WorkflowFailed"]
    (child,) = (run for run in store.runs.find(RunFilter("default"))[0] if run.id != harness.id)
    assert child.resumes == 1


def test_starts_are_counted_between_two_counts(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_MAX_BRANCHES", "3")
    monkeypatch.setattr(quotas, "COUNT_SECONDS", 3600.0)
    for _ in range(3):
        check_branch_quota(store, "default", "service")
    with pytest.raises(RejectedError):
        check_branch_quota(store, "default", "service")


def test_the_settings_are_checked() -> None:
    assert read_limit("NOETL_MAX_BRANCHES", 7, {}) == 7
    assert read_limit("NOETL_MAX_BRANCHES", 7, {"NOETL_MAX_BRANCHES": "1"}) == 1
    for text in ("0", "x", "-1", "1.5", "9" * 5000):
        with pytest.raises(SettingError, match="NOETL_MAX_BRANCHES is"):
            read_limit("NOETL_MAX_BRANCHES", 7, {"NOETL_MAX_BRANCHES": text})


def test_a_store_that_does_not_count_has_no_quota(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(store.queue), "counts_active", False)
    quotas.check_quota_settings(store, {})
    with pytest.raises(SettingError, match=r"^NOETL_MAX_BRANCHES is set, but this store does not count"):
        quotas.check_quota_settings(store, {"NOETL_MAX_BRANCHES": "2"})
    quotas.BranchQuota(store).check("t")


def test_counts_of_few_tenants_are_kept(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "MAX_CACHED_TENANTS", 1)
    quota = quotas.BranchQuota(store)
    for tenant in ("t", "u"):
        quota.check(tenant)
    assert list(quota._counted) == ["u"]
