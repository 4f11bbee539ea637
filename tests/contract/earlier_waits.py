"""Rows of waits from before there was a list of open waits, as statements of SQL."""

_RUN = (
    "insert into runs (id, tenant, playbook, plan_hash, status, origin, queue, input, environment, variables,"
    " tags, created_at, live, finished_at) values ('{run}', 'default', 'p', 'h', '{status}', 'service',"
    " 'service', '{{}}', '{{}}', '{{}}', '[]', 1.0, 1, {end})"
)
_VISIT = (
    "insert into visits (run_id, id, step, queue, status, position, clock, names, number, due_at, progress)"
    " values ('{run}', 'v', 's', 'service', 'waiting', 0, 1, '{{}}', 1, 1.0, '{{\"round\": 1,"
    ' "journal": {{}}}}\')'
)
_WAIT = "insert into waits (run_id, visit_id, id, answered_at) values ('{run}', 'v', 'w', {answer})"
_TOKEN = "insert into tokens (hash, run_id, visit_id, wait_id) values ('{run}', '{run}', 'v', 'w')"


def _rows_of_run(run: str, *, end: str = "null", answer: str = "null", has_token: bool = True) -> list[str]:
    status = "running" if end == "null" else "failed"
    statements = [_RUN, _VISIT, _WAIT, *([_TOKEN] if has_token else [])]
    return [text.format(run=run, status=status, end=end, answer=answer) for text in statements]


EARLIER_WAITS = [
    *_rows_of_run("open"),
    *_rows_of_run("ended", end="2.0"),
    *_rows_of_run("answered", answer="2.0"),
    *_rows_of_run("parent", has_token=False),
]
"""Statements that add a run with an open wait, and runs without: `open`, `ended`, `answered`, `parent`."""
