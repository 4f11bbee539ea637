"""Answers and heartbeats for a step that waits in a `callback`, over HTTP or in a store."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from noetl.api.cli.display.console import EXIT_FAILED, CommandError, print_message
from noetl.api.cli.service_requests import parse_service_url, send_request
from noetl.executor.model.json_values import read_json

if TYPE_CHECKING:
    from noetl.api.service.inbox import AnswerRequest
    from noetl.api.service.services import TenantServices
    from noetl.executor.model.run import Run, WaitKey
    from noetl.executor.stores.interface import Store

_HTTP_TIMEOUT_SECONDS = 30.0
_ACCEPTED = 202
_PICKUP_SECONDS = 1.5
"""Time in which a live worker claims the answered visit."""

_POLL_SECONDS = 0.1
_MAX_HINT_LENGTH = 100


def parse_answer(text: str) -> Any:
    """Parse the JSON value of an answer. `-` reads it from standard input.

    Raises:
        CommandError: the text is not JSON.
    """
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        return read_json(text)
    except ValueError as error:
        is_word = text[:1] not in '{["' and len(text) <= _MAX_HINT_LENGTH
        hint = f"; write text as '{json.dumps(text, ensure_ascii=False)}'" if is_word else ""
        raise CommandError(f"the answer is not JSON: {error}{hint}") from error


def token_from(address: str) -> str:
    """Return the token of a callback, given as the token or as its URL.

    >>> token_from("https://example.com/workflows/callbacks/9f3c/")
    '9f3c'
    """
    return address.strip().rstrip("/").rpartition("/")[2]


def answer_over_http(url: str, answer: Any, *, heartbeat: bool) -> None:
    """Send an answer, or a heartbeat, to the service at the URL of the callback.

    Raises:
        CommandError: the request fails, or the service refuses it.
    """
    url = url.strip().rstrip("/") + ("/heartbeat" if heartbeat else "")
    host = parse_service_url(url, "the URL of the callback", is_secret=True).netloc
    response = send_request("POST", url, host, _HTTP_TIMEOUT_SECONDS, json=answer)
    if not response.is_success:
        detail = response.body.get("detail") if isinstance(response.body, dict) else None
        if not isinstance(detail, str):
            raise response.unexpected("check the URL of the callback")
        raise CommandError(f"{host} refused the request: {detail}", EXIT_FAILED)
    if response.status != _ACCEPTED or response.body != {"status": "accepted"}:
        raise response.unexpected("check the URL of the callback")
    print_message("heartbeat recorded" if heartbeat else "answered")


def answer_in_store(services: TenantServices, token: str, answer: Any, *, heartbeat: bool) -> None:
    """Write an answer, or a heartbeat, to the store. Print how to resume a run that no worker executes.

    Raises:
        CommandError: no step waits for the token, or another answer is recorded.
    """
    from noetl.executor.errors import RejectedError

    try:
        if heartbeat:
            services.callbacks.record_heartbeat(token)
            print_message("heartbeat recorded")
            return
        key = services.callbacks.answer(token, answer)
    except RejectedError as error:
        raise CommandError(error.message, EXIT_FAILED) from error
    print_message(f"answered run {key.run_id}")
    _print_resume_hint(services, key)


def answer_step(services: TenantServices, run_id: str, request: AnswerRequest) -> None:
    """Write an answer to a question of a step to the store, without its token. Print as `answer_in_store`.

    Raises:
        CommandError: the step does not wait, asks several questions, or refuses the answer.
    """
    from noetl.executor.errors import RejectedError

    try:
        key = services.inbox.answer(run_id, request)
    except RejectedError as error:
        raise CommandError(error.message, EXIT_FAILED) from error
    print_message(f"answered run {key.run_id}")
    _print_resume_hint(services, key)


def _print_resume_hint(services: TenantServices, key: WaitKey) -> None:
    from noetl.api.cli.local.run_to_end import is_abandoned
    from noetl.api.service.errors import NotFoundError

    try:
        run = services.runs.get(key.run_id)
    except NotFoundError:
        return  # it belongs to another tenant
    if run.origin != "local" or run.status.is_final:
        return
    store = services.store
    if is_abandoned(store, run) and not _is_picked_up(store, key):
        first_run = _first_open_run(store, run)
        print_message(f"no live worker holds this run; resume it with `noetl runs resume {first_run.id}`")


def _is_picked_up(store: Store, key: WaitKey) -> bool:
    """Return whether a worker claims the visit within `_PICKUP_SECONDS`.

    This finds a worker that has only waited so far: it has no claim that `is_abandoned` could see.
    """
    deadline = time.monotonic() + _PICKUP_SECONDS
    state = _claim_state(store, key)
    while time.monotonic() < deadline:
        if _claim_state(store, key) != state:
            return True
        store.changes.wait(store.changes.count, _POLL_SECONDS)
    return False


def _claim_state(store: Store, key: WaitKey) -> tuple[int, float | None]:
    """Return values that change with every claim of the visit."""
    visits = store.runs.visits(key.run_id)
    return next((visit.fence, visit.finished_at) for visit in visits if visit.id == key.visit_id)


def _first_open_run(store: Store, run: Run) -> Run:
    """Return the run with which the queue of `run` began, or `run` if that one has ended."""
    first_run = store.runs.get(run.tenant, run.queue)
    return run if first_run is None or first_run.status.is_final else first_run
