"""The AWS Lambda functions of the executor.

`step` executes the visits that queue messages name, and performs the triggers that they name. `dead_letter`
gets the messages that were received too often. It fails the visits that have lost too many workers, and sends
the other messages again. `trigger` starts runs for events and messages of the queues of triggers. `sweep`
sends missing messages again, and those about triggers that are due soon.

The engine is imported within functions: at the start of a Lambda function (`noetl.executor.runtime.preload`),
or else when the first event arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from noetl.executor.runtime.json_logs import log_as_json_lines
from noetl.executor.runtime.preload import Preload

if TYPE_CHECKING:
    from noetl.executor.runtime.message_batch import LambdaContext


def step(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Execute the visits that a batch of messages names. Return the ids of the messages to deliver again."""
    return _process_batch(event, context, give_up=False)


def dead_letter(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Fail the visits that have lost too many workers, so that no run waits for them.

    The other messages are sent again: the store was away, or throttled. A message that this version cannot
    decode stays in the queue for inspection.
    """
    return _process_batch(event, context, give_up=True)


def trigger(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Fire the triggers of a batch of messages. Return the ids of the messages to deliver again."""
    from noetl.executor.runtime.message_batch import InvocationMetrics
    from noetl.executor.runtime.source_batch import fire_batch

    log_as_json_lines()
    records, metrics = _read_records(event), InvocationMetrics(context.function_name)
    failed = fire_batch(records, context, metrics)
    metrics.write()
    return {"batchItemFailures": [{"itemIdentifier": id} for id in failed]}


def sweep(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Send missing messages again, and messages about triggers that are due soon. Grant free units of limits.

    Return how many runs were examined, how many messages of both kinds were sent, and how many limits had
    free units and a queue.
    """
    from noetl.executor.engine.slots import grant_stalled
    from noetl.executor.runtime.due_messages import send_due_messages
    from noetl.executor.runtime.message_batch import InvocationMetrics, warm_state

    log_as_json_lines()
    metrics = InvocationMetrics(context.function_name)
    store = warm_state().store
    # A fault of a trigger stops no limit, and neither stops a run.
    try:
        triggers = send_due_messages(store, store.clock())
    finally:
        try:
            limits = grant_stalled(store)
        finally:
            result = store.maintenance.sweep(store.clock())
    metrics.add("Swept", result.runs)
    metrics.add("SentAgain", result.repaired)
    if triggers:  # CloudWatch charges for a metric that has a value.
        metrics.add("Triggers", triggers)
    metrics.write()
    return {"runs": result.runs, "sent_again": result.repaired, "triggers": triggers, "limits": limits}


def _process_batch(event: Mapping[str, Any], context: LambdaContext, *, give_up: bool) -> dict[str, Any]:
    from noetl.executor.runtime.message_batch import InvocationMetrics, process_batch

    log_as_json_lines()
    records, metrics = _read_records(event), InvocationMetrics(context.function_name)
    failed = process_batch(records, context, metrics, give_up=give_up)
    metrics.write()
    return {"batchItemFailures": [{"itemIdentifier": id} for id in failed]}


def _read_records(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the messages of a batch.

    Raises:
        TypeError: the event is none.
    """
    records = event.get("Records") if isinstance(event, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise TypeError(
            "the event is not a batch of SQS messages: only the queue of the function invokes it. To test a"
            " trigger, send an event to the bus of its rule, or a message to the queue"
        )
    return records


def _import_engine() -> None:
    import noetl.executor.runtime.message_batch  # noqa: F401


PRELOAD = Preload(_import_engine)
PRELOAD.prepare_in_lambda()
