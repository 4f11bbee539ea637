"""An answer from outside to a step that waits for it."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from noetl.api.cli.display.console import FAILED, RefusalError, say
from noetl.executor.model.json_values import read_json

if TYPE_CHECKING:
    from noetl.executor.model.run import Run, WaitKey
    from noetl.executor.stores.interface import Store

_HTTP_SECONDS = 30.0
_TAKEN_UP_SECONDS = 1.5
_LOOK_EVERY_SECONDS = 0.1
_LONGEST_SHOWN = 100


def read_answer(text: str) -> Any:
    """The JSON value of an answer; `-` reads it from standard input.

    Raises:
        RefusalError: it is not JSON.
    """
    try:
        if text == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        return read_json(text)
    except ValueError as error:
        hint = (
            ""
            if text[:1] in '{["' or len(text) > _LONGEST_SHOWN
            else f"; as text it is written '{json.dumps(text, ensure_ascii=False)}'"
        )
        raise RefusalError(f"the answer is not JSON: {error}{hint}") from error


def token_of(address: str) -> str:
    """The token in what a callback has asked with: that, or the last part of the URL."""
    return address.strip().rstrip("/").rpartition("/")[2]


def answer_over_http(url: str, answer: Any, *, heartbeat: bool) -> None:
    """The service at the URL has the answer, or has heard that it is being worked on.

    Raises:
        RefusalError: it cannot be reached, or refuses.
    """
    import httpx

    url = url.strip().rstrip("/") + ("/heartbeat" if heartbeat else "")
    host = urlsplit(url).netloc
    try:
        response = httpx.post(url, json=answer, timeout=_HTTP_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RefusalError(f"{host} cannot be asked: {error}") from error
    if not response.is_success:
        raise RefusalError(f"{host} refuses: {_detail(response)}", FAILED)
    say("heard" if heartbeat else "answered")


def _detail(response: Any) -> str:
    """Why a service refuses, in its own words where it has any."""
    try:
        detail = response.json()["detail"]
    except (ValueError, LookupError, TypeError):
        detail = None
    return detail if isinstance(detail, str) else f"{response.status_code} {response.reason_phrase}".strip()


def answer_in_store(store: Store, token: str, answer: Any, *, heartbeat: bool) -> None:
    """The step that waits for the token has the answer, or it is noted that this is being worked on. Where nobody goes on
    with the run, the way to do so is said.

    Raises:
        RefusalError: nobody waits for it, or another answer came before.
    """
    from noetl.executor.engine.external import hash_of
    from noetl.executor.errors import RejectedError

    try:
        if heartbeat:
            store.record_heartbeat(hash_of(token), time.time())
            say("heard")
            return
        key = store.answer(hash_of(token), answer, time.time())
    except RejectedError as error:
        raise RefusalError(error.message, FAILED) from error
    say(f"answered run {key.run_id}")
    _say_how_it_goes_on(store, key)


def _say_how_it_goes_on(store: Store, key: WaitKey) -> None:
    from noetl.api.cli.local.run_to_end import is_abandoned
    from noetl.api.service.runs import DEFAULT_TENANT

    run = store.run(DEFAULT_TENANT, key.run_id)
    if run is None or run.origin != "local" or run.status.is_final:
        return
    if is_abandoned(store, run) and not _is_taken_up(store, key):
        say(f"nobody is at work on it: `noetl runs resume {_first(store, run).id}` goes on with the run")


def _is_taken_up(store: Store, key: WaitKey) -> bool:
    """Whether a worker goes on with the visit within a moment: one that has only waited so far leaves no trace of that."""
    until = time.monotonic() + _TAKEN_UP_SECONDS
    before = _claims(store, key)
    while time.monotonic() < until:
        if _claims(store, key) != before:
            return True
        store.changes.wait(store.changes.count, _LOOK_EVERY_SECONDS)
    return False


def _claims(store: Store, key: WaitKey) -> tuple[int, float | None]:
    """What changes with every claim of the visit."""
    return next((v.fence, v.finished_at) for v in store.visits(key.run_id) if v.id == key.visit_id)


def _first(store: Store, run: Run) -> Run:
    """The run with which a process began that has walked this one, if it has not ended."""
    first = store.run(run.tenant, run.queue)
    return run if first is None or first.status.is_final else first
