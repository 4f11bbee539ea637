"""Payloads that were deleted from the bucket of a store in DynamoDB, or damaged there."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.engine.start import prefix_before
from noetl.executor.errors import RejectedError, StoreError
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.run import Run, RunEnding, RunStatus, WaitKey
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.dynamo import blobs, consistency
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness, register_playbook
from noetl.testing.store_contract.operations import claim_visit, start_run, succeed
from tests.aws import Client

LONG = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=16_000))
"""A text whose compressed form is too long for an item."""

READS = """
    input: {text: string}
    steps:
    - name: a
      run: [{action: set, set: {copy: "{{ text }}", small: 1}}]
      rule: [{case: default, run: [b]}]
    - name: b
      run: [{action: log, message: "{{ copy | length }}"}]
      rule:
      - {case: error, run: [c]}
      - {case: default, run: []}
    - {name: c, run: [{action: set, set: {seen: "{{ steps.b.error.type }}"}}]}
    output: {seen: "{{ seen }}"}
"""
SAVES = """
    input: {text: string}
    steps: [{name: a, run: [{action: set, set: {copy: "{{ text }}"}}]}]
"""


def open_dynamo() -> DynamoStore:
    """Open the store without a cache of payloads."""
    return DynamoStore("noetl", bucket="values")


@pytest.fixture
def store(moto_aws: Client) -> DynamoStore:
    upgrade("noetl")
    moto_aws("s3").create_bucket(Bucket="values")
    return open_dynamo()


def payload_keys(aws: Client) -> list[str]:
    keys = [entry["Key"] for entry in aws("s3").list_objects_v2(Bucket="values").get("Contents", ())]
    assert keys
    return keys


def delete_payloads(aws: Client) -> None:
    for key in payload_keys(aws):
        aws("s3").delete_object(Bucket="values", Key=key)


def finish_without_payloads(playing: RunHarness, aws: Client) -> None:
    """Delete all payloads, and finish the run in a process that has read none of them."""
    delete_payloads(aws)
    playing.store = open_dynamo()
    playing.finish()


def start_with_lost_text(aws: Client, store: DynamoStore, text: str, *, steps: int = 1) -> RunHarness:
    """Start a run with a short input, execute its first steps, and delete all payloads."""
    playing = RunHarness(store, text, {"text": LONG})
    for _ in range(steps):
        assert playing.execute_next()
    delete_payloads(aws)
    playing.store = open_dynamo()
    return playing


def start_with_saved_text(store: DynamoStore, aws: Client) -> Run:
    """Start a run whose first step has saved a text that was deleted, as was the input of the run."""
    run = start_run(store, READS, input={"text": LONG})
    claim = claim_visit(store, run, 1.0)
    store.queue.commit(succeed(store, claim, saved={"copy": LONG}), 1.0)
    delete_payloads(aws)
    return run


def test_a_lost_output_is_an_error_of_the_step_that_reads_it(store: DynamoStore, moto_aws: Client) -> None:
    playing = start_with_lost_text(moto_aws, store, READS).finish()
    assert (playing.status, playing.result) == (RunStatus.SUCCEEDED, {"seen": "PayloadLost"})
    error = playing.visit("b").error
    assert error is not None
    assert f"visit 1 of step `a` is lost: object runs/{playing.id}/" in error["message"]


def test_a_damaged_payload_counts_as_lost(store: DynamoStore, moto_aws: Client) -> None:
    playing = RunHarness(store, READS, {"text": LONG})
    assert playing.execute_next()
    for key in payload_keys(moto_aws):
        moto_aws("s3").put_object(Bucket="values", Key=key, Body=b"other bytes")
    playing.store = open_dynamo()
    playing.finish()
    assert (playing.status, playing.result) == (RunStatus.SUCCEEDED, {"seen": "PayloadLost"})
    error = playing.visit("b").error
    assert error is not None and "does not match its hash" in error["message"]


def test_the_output_reports_each_lost_value_that_it_reads(store: DynamoStore, moto_aws: Client) -> None:
    text = """
        input: {text: string}
        steps:
        - {name: a, run: [{action: set, set: {copy: "{{ text }}"}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: set, set: {n: 2}}]}
        output: {n: "{{ n }}", copy: "{{ copy }}", text: "{{ input.text }}"}
    """
    playing = start_with_lost_text(moto_aws, store, text).finish()
    assert (playing.status, playing.visit("b").error) == (RunStatus.COMPLETED_WITH_ERRORS, None)
    assert playing.result == {"n": 2, "copy": None, "text": None}
    assert [(error["type"], error["message"].partition(":")[0]) for error in playing.run.errors] == [
        ("PayloadLost", "`output.copy`"),
        ("PayloadLost", "`output.text`"),
    ]


def test_a_run_without_output_reports_the_lost_names(store: DynamoStore, moto_aws: Client) -> None:
    playing = start_with_lost_text(moto_aws, store, SAVES).finish()
    assert (playing.status, playing.result) == (RunStatus.COMPLETED_WITH_ERRORS, {"copy": None})
    assert playing.error_types == ["PayloadLost"]


@pytest.mark.parametrize(
    ("read", "status"),
    [
        ("small", RunStatus.SUCCEEDED),
        ("steps.b.status", RunStatus.SUCCEEDED),
        ("copy", RunStatus.FAILED),
        ("steps.a.status", RunStatus.FAILED),
    ],
)
def test_a_finally_step_fails_only_if_it_reads_what_is_lost(
    store: DynamoStore, moto_aws: Client, read: str, status: RunStatus
) -> None:
    text = """
        input: {text: string}
        steps:
        - {name: a, run: [{action: set, set: {copy: "{{ text }}"}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: set, set: {small: 1}}]}
        - {name: end, run: [{action: log, message: "{{ %s }}"}]}
        finally: end
        output: {small: "{{ small }}"}
    """
    playing = start_with_lost_text(moto_aws, store, text % read).finish()
    assert playing.status is status
    assert playing.error_types == ([] if status is RunStatus.SUCCEEDED else ["PayloadLost"])


def test_a_run_whose_input_is_lost_fails(store: DynamoStore, moto_aws: Client) -> None:
    playing = start_with_lost_text(moto_aws, store, SAVES, steps=0).finish()
    assert (playing.status, playing.error_types) == (RunStatus.FAILED, ["PayloadLost"])
    assert "the input of the run is lost: object runs/" in playing.run.errors[0]["message"]
    with pytest.raises(RejectedError, match="cannot continue: the input of the run is lost"):
        playing.resume(text="another")
    with pytest.raises(RejectedError, match="cannot continue: the input of the run is lost"):
        playing.store.runs.resume(playing.id, playing.clock(), deadline_at=None, values={})


def test_no_run_continues_a_history_with_lost_outputs(store: DynamoStore, moto_aws: Client) -> None:
    playing = RunHarness(store, READS, {"text": LONG}).finish()
    before = payload_keys(moto_aws)
    assert len(before) > 1
    visits = playing.store.runs.visits_with_outputs(playing.id)
    step, finally_step = playing.store.plans.step(playing.plan.hash, "b"), playing.plan.header.finally_step
    assert prefix_before(step, playing.run, visits, finally_step).visits
    lost = [replace(visit, lost_payload="its data is lost") for visit in visits]
    with pytest.raises(RejectedError, match="cannot continue: its data is lost"):
        prefix_before(step, playing.run, lost, finally_step)


def test_a_step_whose_saved_names_are_lost_fails_and_a_resume_starts_it_again(
    store: DynamoStore, moto_aws: Client
) -> None:
    text = f"""
        steps:
        - name: a
          run:
          - {{action: set, set: {{copy: {LONG}, n: 1}}}}
          - {{action: wait, seconds: 5}}
          - {{action: set, set: {{n: "{{{{ n + 1 }}}}"}}}}
        output: {{n: "{{{{ n }}}}"}}
    """
    playing = RunHarness(store, text)
    assert playing.execute_next()
    finish_without_payloads(playing, moto_aws)
    assert (playing.status, playing.error_types) == (RunStatus.FAILED, ["PayloadLost"])
    playing.resume().finish()
    assert (playing.status, playing.result) == (RunStatus.SUCCEEDED, {"n": 2})


@pytest.mark.parametrize(
    "step", ["run: [%s]", "run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [%s]}]"]
)
def test_a_loop_whose_batch_results_are_lost_fails(store: DynamoStore, moto_aws: Client, step: str) -> None:
    loop = f"{{action: set, loop: {{items: [1, 2, 3, 4], batch: 2}}, set: {{value: {LONG}}}}}"
    playing = RunHarness(store, f"steps: [{{name: a, {step % loop}}}]")
    assert playing.execute_next()
    finish_without_payloads(playing, moto_aws)
    assert (playing.status, playing.error_types) == (RunStatus.FAILED, ["PayloadLost"])


def test_a_child_run_whose_result_is_lost_is_an_error_of_its_parent(
    store: DynamoStore, moto_aws: Client
) -> None:
    child = "name: child\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]\noutput: {copy: %s}\n"
    register_playbook(store, child % LONG)
    playing = RunHarness(store, "steps: [{name: call, run: [{action: workflow, playbook: child}]}]")
    while not any(run.status is RunStatus.SUCCEEDED for run in store.runs.find(RunFilter())[0]):
        assert playing.execute_next()
    finish_without_payloads(playing, moto_aws)
    assert (playing.status, playing.error_types) == (RunStatus.FAILED, ["PayloadLost"])
    assert "the result of the run is lost" in playing.run.errors[0]["message"]


def test_the_error_of_a_failed_visit_may_be_lost(store: DynamoStore, moto_aws: Client) -> None:
    text = f"""
        steps: [{{name: a, run: [{{action: fail, type: Odd, message: {LONG}}}]}}]
    """
    playing = RunHarness(store, text)
    assert playing.execute_next()
    finish_without_payloads(playing, moto_aws)
    assert (playing.status, playing.error_types) == (RunStatus.FAILED, ["PayloadLost"])
    assert playing.run.error is not None and playing.run.error["type"] == "PayloadLost"


def test_a_run_with_lost_payloads_is_swept_listed_and_cancelled(store: DynamoStore, moto_aws: Client) -> None:
    run = start_with_saved_text(store, moto_aws)
    fresh: Any = open_dynamo()
    fresh.maintenance.sweep(1000.0, queue=run.queue)
    assert fresh.runs.overview("default", run.id) is not None
    assert [summary.id for summary in fresh.runs.find(RunFilter())[0]] == [run.id]
    assert [visit.step for visit in fresh.runs.visits(run.id)] == ["a", "b"]
    assert fresh.runs.events(run.id)
    (*findings,) = fresh.maintenance.check_consistency()
    assert {(finding.check, finding.run_id) for finding in findings} == {("lost payloads", run.id)}
    assert "any more (2 of 2 values of open runs were checked)" in findings[0].message
    assert fresh.runs.stop(run.id, RunStatus.CANCELLED, 1001.0).stop is RunStatus.CANCELLED
    end = claim_visit(fresh, run, 1002.0)
    fresh.queue.finish(end, RunEnding(RunStatus.CANCELLED, None, []), 1002.0)
    assert fresh.runs.get("default", run.id).status is RunStatus.CANCELLED


FORK = f"""
    mode: sequential
    steps:
    - {{name: a, run: [], rule: [{{case: default, run: [{", ".join(f"s{n}" for n in range(4))}]}}]}}
""" + "".join(f"    - {{name: s{n}, run: [{{action: set, set: {{n: {n}}}}}]}}\n" for n in range(4))


def start_with_lost_stack(store: DynamoStore, aws: Client, text: str) -> RunHarness:
    """Start a run in sequential mode, and delete its stack after the first branch."""
    playing = RunHarness(store, text)
    for _ in range(2):
        assert playing.execute_next()
    delete_payloads(aws)
    playing.store = open_dynamo()
    return playing


@pytest.mark.parametrize("ending", ["", "finally: end"])
@pytest.mark.usefixtures("small_items")
def test_a_run_whose_stack_is_lost_fails_and_is_not_resumed(
    store: DynamoStore, moto_aws: Client, ending: str
) -> None:
    end = "    - {name: end, run: [{action: log, message: ended}]}\n    finally: end\n" if ending else ""
    playing = start_with_lost_stack(store, moto_aws, FORK + end)
    playing.finish()
    assert (playing.status, playing.error_types) == (RunStatus.FAILED, ["PayloadLost"])
    error = playing.visit("s1").error
    assert error is not None and "the stack of the branches of the run is lost" in error["message"]
    assert playing.store.maintenance.check_consistency() == []
    with pytest.raises(RejectedError, match="cannot continue: the stack of the branches"):
        playing.resume()


CALLBACK = """
    steps:
    - name: a
      run:
      - action: callback
        notify: {action: file, write: token.txt, content: "{{ callback.token }}"}
        as: text
      rule: [{case: error, run: [b]}, {case: default, run: []}]
    - {name: b, run: [{action: set, set: {seen: "{{ steps.a.error.type }}"}}]}
    output: {seen: "{{ seen }}"}
"""


@pytest.fixture
def small_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let almost all values be in the bucket."""
    monkeypatch.setattr(blobs, "INLINE_BYTES", 10)


@pytest.mark.usefixtures("small_items")
def test_a_lost_answer_is_an_error_of_its_step_and_of_a_repetition(
    store: DynamoStore, moto_aws: Client, tmp_path: Path
) -> None:
    playing = RunHarness(store, CALLBACK, folder=tmp_path)
    assert playing.execute_next()
    token = hash_secret((tmp_path / "token.txt").read_text())
    store.waits.answer(token, LONG, playing.clock())
    delete_payloads(moto_aws)
    playing.store = open_dynamo()
    with pytest.raises(RejectedError, match=r"the earlier answer, .* is lost: object runs/") as refused:
        playing.store.waits.answer(token, LONG, playing.clock())
    assert refused.value.reason == "payload_lost"
    playing.finish()
    assert (playing.status, playing.result) == (RunStatus.SUCCEEDED, {"seen": "PayloadLost"})


@pytest.mark.usefixtures("small_items")
def test_an_answer_whose_declared_fields_are_lost_is_refused(store: DynamoStore, moto_aws: Client) -> None:
    run = start_run(store, SAVES, input={"text": LONG})
    claim = claim_visit(store, run, 1.0)
    key = WaitKey(run.id, claim.visit.id, "w")
    store.waits.open_wait(claim, key.id, "token", {"approved": {"type": "boolean"}})
    delete_payloads(moto_aws)
    other = open_dynamo()
    with pytest.raises(RejectedError, match="the answer's fields is lost: object runs/") as refused:
        other.waits.answer("token", {"approved": True}, 2.0)
    assert refused.value.reason == "payload_lost"
    other.waits.record_heartbeat("token", 3.0)
    assert other.waits.wait(key).last_heartbeat_at == 3.0


@pytest.mark.usefixtures("small_items")
def test_the_check_of_payloads_is_limited(
    store: DynamoStore, moto_aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_with_lost_stack(store, moto_aws, FORK)
    monkeypatch.setattr(consistency, "MAX_CHECKED_PAYLOADS", 1)
    (finding,) = open_dynamo().maintenance.check_consistency()
    assert "(1 of " in finding.message


def test_no_value_of_an_unknown_bucket_is_lost(
    store: DynamoStore, moto_aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_with_saved_text(store, moto_aws)
    for bucket, problem in (("unknown", "there is no bucket unknown"), (None, "Set NOETL_BUCKET")):
        (finding,) = DynamoStore("noetl", bucket=bucket).maintenance.check_consistency()
        assert finding.check == "bucket"
        assert problem in finding.message

    def fail(*_: object, **__: object) -> None:
        raise StoreError("The bucket is away.")

    monkeypatch.setattr(blobs.Blobs, "_call", fail)
    with pytest.raises(StoreError, match="away"):
        blobs.Blobs("values").has_object(b"@runs/r/0")
