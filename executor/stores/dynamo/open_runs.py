"""The index of open runs, by queue. It is eventually consistent, so it may miss a run that has just started.

The item `S#sweep` of an index partition stores `behind`, the sort key of the last run that a sweep examined.
"""

from __future__ import annotations

from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import encode_item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Update


def list_open_runs(context: DynamoContext, queue: str) -> list[str]:
    """Return the ids of the runs of a queue that have not ended, as the index knows them."""
    shards = [*keys.open_shards(queue), *keys.asleep_shards(queue)]
    pages = context.in_parallel(lambda shard: _list_shard(context, shard), shards)
    return [run_id for page in pages for run_id in page]


def next_open_runs(context: DynamoContext, queue: str, limit: int) -> list[str]:
    """Return the ids of the next open runs of a queue, at most `limit`, or one of each index partition.

    Runs that sleep are left out. Successive calls go through all runs, and start again at the end.
    """
    shards = keys.open_shards(queue)
    page_size = max(limit // len(shards), 1)
    pages = context.in_parallel(lambda shard: _next_page(context, shard, page_size), shards)
    return [run_id for page in pages for run_id in page]


def _list_shard(context: DynamoContext, shard: str) -> list[str]:
    run_ids: list[str] = []
    request = {"KeyConditionExpression": "#o = :q", "ExpressionAttributeNames": {"#o": "open"}}
    values = {"ExpressionAttributeValues": {":q": {"S": shard}}}
    start: dict[str, object] = {}
    while True:
        page = context.table.query_index("open", **request, **values, **start)
        run_ids += [item["pk"]["S"][2:] for item in page["Items"]]
        if "LastEvaluatedKey" not in page:
            return run_ids
        start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


def _next_page(context: DynamoContext, shard: str, limit: int) -> list[str]:
    """Return the ids of the next open runs of an index partition, and remember where they end."""
    key = keys.ItemKey("S#sweep", f"S#{shard}")
    after = (context.table.get(key) or {}).get("behind")
    request = {
        "KeyConditionExpression": "#o = :q" + (" AND created > :c" if after else ""),
        "ExpressionAttributeNames": {"#o": "open"},
        "ExpressionAttributeValues": encode_item({":q": shard, ":c": after}),
        "Limit": limit,
    }
    page = context.table.query_index("open", **request)
    entries = [(item["pk"]["S"][2:], item["created"]["S"]) for item in page["Items"]]
    end = entries[-1][1] if entries and "LastEvaluatedKey" in page else None
    if end != after:
        context.table.update(Update(key, {"behind": end}))
    return [run_id for run_id, _ in entries]
