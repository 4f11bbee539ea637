from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from noetl.api.service.step_reports import step_reports
from noetl.api.service.views import members
from noetl.executor.engine.external import read_public_url
from noetl.executor.errors import RejectedError, SettingError
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.run import NEVER, RunStatus
from noetl.executor.model.run_summary import latest_visits
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness

CALLBACK_PLAYBOOK = """
    steps:
    - name: ask
      run:
        - {action: file, append: done.txt, content: "before\\n"}
        - {action: callback, as: answer,
           notify: {action: file, append: tokens.txt, content: "{{ callback.token }}\\n."}%s}
      rule:
        - case: "{{ error.type == 'CallbackExpired' }}"
          run: [{action: set, set: {why: "{{ error.message }}"}}]
"""


class WaitingCallbackRun(RunHarness):
    """A run whose callback action waits for an answer."""

    @classmethod
    def start(cls, store: SqliteStore, folder: Path, text: str, **input: Any) -> WaitingCallbackRun:
        harness = cls(store, text, input, folder=folder)
        harness.folder = folder
        while harness.execute_next():
            pass
        return harness

    folder: Path

    @property
    def tokens(self) -> list[str]:
        return [token for token in self.folder.joinpath("tokens.txt").read_text().split("\n.") if token]

    def answer(self, body: Any, token: str | None = None) -> None:
        self.store.waits.answer(hash_secret(token or self.tokens[-1]), body, self.clock())

    def rejection(self, body: Any = None, token: str | None = None) -> str:
        with pytest.raises(RejectedError) as found:
            self.answer(body, token)
        return found.value.reason


Begin = Callable[..., WaitingCallbackRun]


@pytest.fixture
def begin(store: SqliteStore, tmp_path: Path) -> Begin:
    return lambda options="", **input: WaitingCallbackRun.start(
        store, tmp_path, CALLBACK_PLAYBOOK % options, **input
    )


def test_the_answer_is_the_result_of_the_action(begin: Begin) -> None:
    harness = begin()
    assert harness.status is RunStatus.WAITING
    harness.answer({"yes": True})
    assert harness.finish().result == {"answer": {"yes": True}}
    assert harness.folder.joinpath("done.txt").read_text() == "before\n"


@pytest.mark.parametrize("body", [None, False, "text", [1, 2], {"a": {"b": 1}}, 1.5])
def test_an_answer_may_be_any_value(begin: Begin, body: Any) -> None:
    harness = begin()
    harness.answer(body)
    assert harness.finish().result == {"answer": body}


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("", None),
        (" ", None),
        (" https://noetl.example.com ", "https://noetl.example.com"),
        ("http://127.0.0.1:8000/noetl", "http://127.0.0.1:8000/noetl"),
    ],
)
def test_the_public_url_is_read_from_its_setting(setting: str, url: str | None) -> None:
    assert read_public_url({"NOETL_PUBLIC_URL": setting}) == url


@pytest.mark.parametrize(
    "setting",
    ["noetl.example.com", "ftp://x.test", "https://", "https://[x", "https://x.test:0", "https://x.test/?a=1",
     "https://user@x.test", "https://x.test/#a", "https://x.test/a b", "https://x.test/\x07"],
)  # fmt: skip
def test_a_public_url_to_which_no_path_can_be_appended_is_refused(setting: str) -> None:
    with pytest.raises(SettingError, match="it must be an http or https URL such as"):
        read_public_url({"NOETL_PUBLIC_URL": setting})


def test_a_heartbeat_that_is_no_duration_fails_the_action(begin: Begin) -> None:
    harness = begin(", heartbeat: '{{ every }}'", every="soon").finish()
    (error,) = harness.run.errors
    assert (error["type"], error["message"]) == (
        "ParameterError",
        "`heartbeat` must be a duration, not 'soon'",
    )


def test_a_waiting_visit_holds_no_claim(begin: Begin) -> None:
    harness = begin()
    visit = harness.visit("ask")
    assert (visit.status, visit.due_at, visit.claims) == ("waiting", NEVER, 0)
    waiting = next(event for event in harness.events if event.type == "step.waiting")
    assert waiting.payload == {"until": None, "actions": ["callback"]}


def test_a_token_accepts_one_answer(begin: Begin) -> None:
    harness = begin()
    harness.answer({"yes": True})
    harness.answer({"yes": True})
    assert harness.rejection({"yes": False}) == "answered_otherwise"
    harness.finish()
    harness.answer({"yes": True})
    assert harness.rejection({"yes": False}) == "answered_otherwise"
    assert harness.result == {"answer": {"yes": True}}


def test_only_the_hash_of_a_token_is_stored(begin: Begin, store: SqliteStore) -> None:
    harness = begin()
    (token,) = harness.tokens
    assert len(token) >= 43
    assert token.isalnum()
    harness.answer(1)
    harness.finish()
    everything = "\n".join(store.file.connection().iterdump())
    assert token not in everything
    assert hash_secret(token) in everything


def test_an_unknown_token_is_rejected(begin: Begin) -> None:
    assert begin().rejection(token="x" * 43) == "unknown_token"


def test_an_answer_that_is_too_large_is_rejected(begin: Begin) -> None:
    harness = begin()
    assert harness.rejection("x" * (1024 * 1024)) == "too_large"
    harness.answer("x")
    assert harness.finish().result == {"answer": "x"}


class TestExpiry:
    def test_a_callback_without_an_answer_expires(self, begin: Begin) -> None:
        harness = begin(", timeout: 10s")
        before = harness.clock()
        harness.finish()
        assert (harness.result, harness.clock() - before) == ({"why": "no answer arrived in time"}, 10)
        assert harness.rejection() == "closed"

    def test_a_late_answer_is_accepted_until_the_expiry_is_committed(self, begin: Begin) -> None:
        harness = begin(", timeout: 10s")
        harness.clock.advance(11)
        harness.answer("late, and not too late")
        assert harness.finish().result == {"answer": "late, and not too late"}

    def test_a_heartbeat_extends_the_callback(self, begin: Begin) -> None:
        harness = begin(", timeout: 60s, heartbeat: 10s")
        for _ in range(3):
            harness.clock.advance(8)
            harness.store.waits.record_heartbeat(hash_secret(harness.tokens[0]), harness.clock())
            harness.execute_next()
        before = harness.clock()
        harness.finish()
        assert harness.result == {"why": "no heartbeat arrived for 10 seconds"}
        assert harness.clock() - before == 10
        with pytest.raises(RejectedError, match="any more"):
            harness.store.waits.record_heartbeat(hash_secret(harness.tokens[0]), harness.clock())

    def test_heartbeats_do_not_extend_the_timeout(self, begin: Begin) -> None:
        harness = begin(", timeout: 15s, heartbeat: 10s")
        harness.clock.advance(8)
        harness.store.waits.record_heartbeat(hash_secret(harness.tokens[0]), harness.clock())
        assert harness.finish().result == {"why": "no answer arrived in time"}


class TestCallbackAfterEnd:
    def test_a_cancelled_run_accepts_no_answer(self, begin: Begin) -> None:
        harness = begin()
        harness.store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        assert harness.rejection() == "closed"

    def test_a_resumed_run_waits_for_the_same_answer(self, begin: Begin) -> None:
        harness = begin()
        harness.store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        harness.resume()
        harness.answer(7)
        assert harness.finish().result == {"answer": 7}
        assert len(harness.tokens) == 1

    def test_a_resume_after_expiry_creates_a_new_token(self, store: SqliteStore, tmp_path: Path) -> None:
        text = (CALLBACK_PLAYBOOK % ", timeout: 10s").partition("      rule:")[0]
        harness = WaitingCallbackRun.start(store, tmp_path, text).finish()
        assert harness.error_types == ["CallbackExpired"]
        harness.resume()
        while harness.execute_next():
            pass
        assert isinstance(harness, WaitingCallbackRun)
        first, second = harness.tokens
        assert harness.rejection(token=first) == "closed"
        harness.answer(7)
        assert harness.finish().result == {"answer": 7}
        assert second != first
        assert tmp_path.joinpath("done.txt").read_text() == "before\n"

    def test_a_retried_step_creates_a_new_token(self, store: SqliteStore, tmp_path: Path) -> None:
        text = (CALLBACK_PLAYBOOK % ", timeout: 10s").replace(
            "name: ask", "name: ask\n      retry: {attempts: 2, delay: 5s, jitter: false}"
        )
        harness = WaitingCallbackRun.start(store, tmp_path, text)
        before = harness.clock()
        harness.finish()
        assert (harness.clock() - before, len(harness.tokens)) == (25, 2)
        assert tmp_path.joinpath("done.txt").read_text() == "before\n"


class TestNotify:
    def test_a_failed_notification_fails_the_action(self, store: SqliteStore, tmp_path: Path) -> None:
        text = CALLBACK_PLAYBOOK.replace("append: tokens.txt", "append: ../tokens.txt") % ""
        harness = WaitingCallbackRun.start(store, tmp_path, text)
        assert harness.error_types == ["FileError"]

    def test_after_a_crash_both_tokens_are_valid(self, store: SqliteStore, tmp_path: Path) -> None:
        """The worker dies between the notification and the suspension: the first token stays valid."""
        harness = WaitingCallbackRun(store, CALLBACK_PLAYBOOK % "", {}, folder=tmp_path)
        harness.folder = tmp_path
        claim = harness.claim()
        assert claim is not None
        executor = harness.executor()

        class WorkerDeath(BaseException):
            pass

        def kill_worker(*_: Any) -> None:
            raise WorkerDeath

        broken = replace(executor, store=_PatchedStore(store, "commit", kill_worker))
        with pytest.raises(WorkerDeath):
            broken.execute(claim)
        harness.clock.advance(60)
        while harness.execute_next():
            pass
        first, second = harness.tokens
        assert first != second
        harness.answer(1, first)
        assert harness.rejection(2, second) == "answered_otherwise"
        assert harness.finish().result == {"answer": 1}

    def test_the_callback_url_contains_the_token(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = WaitingCallbackRun(
            store, CALLBACK_PLAYBOOK.replace("callback.token", "callback.url") % "", {}, folder=tmp_path
        )
        harness.folder = tmp_path
        claim = harness.claim()
        assert claim is not None
        replace(harness.executor(), public_url="https://x.test/").execute(claim)
        (url,) = harness.tokens
        assert url.startswith("https://x.test/workflows/callbacks/")
        harness.answer(1, url.rpartition("/")[2])
        assert harness.finish().result == {"answer": 1}

    def test_a_callback_url_needs_the_public_url_setting(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = WaitingCallbackRun.start(
            store, tmp_path, CALLBACK_PLAYBOOK.replace("callback.token", "callback.url") % ""
        )
        (error,) = harness.run.errors
        assert "NOETL_PUBLIC_URL" in error["message"]


class TestConcurrentCallbacks:
    def test_each_item_of_a_loop_waits_for_its_own_answer(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: ask
              loop: {items: [a, b, c], concurrency: 3}
              run:
                - action: callback
                  notify: {action: file, write: "{{ item }}.txt", content: "{{ callback.token }}"}
                  as: answer
              rule: [{case: default, run: [{action: set, set: {all: "{{ result.data }}"}}]}]
        """
        harness = WaitingCallbackRun.start(store, tmp_path, text)
        for name in "bca":
            harness.answer(name.upper(), tmp_path.joinpath(f"{name}.txt").read_text())
            harness.execute_next()
        assert harness.finish().result == {"all": ["A", "B", "C"]}

    def test_an_answer_before_the_suspension_is_committed_makes_the_visit_due(
        self, store: SqliteStore, tmp_path: Path
    ) -> None:
        """An answer before the commit of the suspension makes the visit due at once."""
        text = CALLBACK_PLAYBOOK.replace("append: tokens.txt", "write: tokens.txt") % ""
        harness = WaitingCallbackRun(store, text, {}, folder=tmp_path)
        harness.folder = tmp_path

        def commit(*args: Any) -> Any:
            harness.answer("quick")
            return store.queue.commit(*args)

        claim = harness.claim()
        assert claim is not None
        replace(harness.executor(), store=_PatchedStore(store, "commit", commit)).execute(claim)
        assert harness.visit("ask").due_at == harness.clock()
        assert harness.finish().result == {"answer": "quick"}


class _PatchedStore:
    """A store with one method of its queue replaced."""

    def __init__(self, store: Any, name: str, method: Callable[..., Any]) -> None:
        self._store = store
        self._name = name
        self._method = method

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            return self._method
        value = getattr(self._store, name)
        return _PatchedStore(value, self._name, self._method) if name == "queue" else value


ANSWER = ", answer: {yes: boolean, note: {type: string, default: none given, enum: [none given, x]}}"


class TestQuestion:
    """`title`, `details` and `answer` of a callback (language.md, "Callbacks")."""

    TEXT = """
        input: {n: integer}
        steps:
        - name: ask
          run:
          - action: callback
            title: "Pay {{ input.n }} invoices?"
            details: {sum: "{{ input.n * 2 }}", rows: [a, {b: null}]}
            answer: {yes: boolean, note: {type: string, default: "", description: Why.}}
            notify: {action: file, append: tokens.txt, content: "{{ callback.token }}\\n."}
            as: answer
    """

    QUESTION: ClassVar = {
        "title": "Pay 3 invoices?",
        "details": {"sum": 6, "rows": ["a", {"b": None}]},
        "answer": {
            "yes": {"type": "boolean"},
            "note": {"type": "string", "default": "", "description": "Why."},
        },
    }

    def questions(self, harness: RunHarness) -> list[dict[str, Any]]:
        """Return the questions of the step `ask` as clients see them."""
        reports = step_reports(harness.status, ["ask"], latest_visits(harness.store.runs.visits(harness.id)))
        wait = reports["ask"].waiting_for
        assert wait is not None
        return [members(question) for question in wait.questions or ()]

    def test_it_is_shown_while_the_step_waits(self, store: SqliteStore, tmp_path: Path) -> None:
        harness = WaitingCallbackRun.start(store, tmp_path, self.TEXT, n=3)
        assert self.questions(harness) == [{"position": "run.0", **self.QUESTION}]
        waiting = next(event for event in harness.events if event.type == "step.waiting")
        assert waiting.payload == {"until": None, "actions": ["callback"], "titles": ["Pay 3 invoices?"]}

    def test_it_stays_after_a_heartbeat_and_a_resume(self, store: SqliteStore, tmp_path: Path) -> None:
        text = self.TEXT.replace("as: answer", "heartbeat: 10m\n            as: answer")
        harness = WaitingCallbackRun.start(store, tmp_path, text, n=3)
        harness.clock.advance(500)
        store.waits.record_heartbeat(hash_secret(harness.tokens[-1]), harness.clock())
        harness.clock.advance(100)
        assert harness.execute_next()
        assert self.questions(harness) == [{"position": "run.0", **self.QUESTION}]
        store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
        harness.finish()
        harness.resume()
        harness.execute_next()
        assert self.questions(harness) == [{"position": "run.0", **self.QUESTION}]
        harness.answer({"yes": True})
        assert harness.finish().result == {"answer": {"yes": True, "note": ""}}

    def test_each_item_of_a_loop_has_its_own(self, store: SqliteStore, tmp_path: Path) -> None:
        text = """
            steps:
            - name: ask
              run:
              - action: callback
                title: "Pay {{ item }}?"
                loop: {items: [a, b, a], concurrency: 3}
        """
        harness = WaitingCallbackRun.start(store, tmp_path, text)
        assert [(q["position"], q["title"]) for q in self.questions(harness)] == [
            ("run.0[0]", "Pay a?"),
            ("run.0[1]", "Pay b?"),
            ("run.0[2]", "Pay a?"),
        ]
        waiting = next(event for event in harness.events if event.type == "step.waiting")
        assert waiting.payload["titles"] == ["Pay a?", "Pay b?"]

    def test_it_is_stored_without_secrets(
        self, store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOETL_SECRET_KEY", "a-secret-key")
        text = """
            steps:
            - name: ask
              run:
              - {action: shell, command: "echo $K", env: {K: "{{ secrets.KEY }}"}, as: shown}
              - {action: callback, title: "Use {{ shown.stdout | trim }}?", details: ["{{ shown.stdout }}"]}
        """
        harness = WaitingCallbackRun.start(store, tmp_path, text)
        assert [(q["title"], q["details"]) for q in self.questions(harness)] == [("Use ***?", ["***\n"])]
        stored = repr((store.runs.visits_with_outputs(harness.id), harness.events))
        assert "***" in stored
        assert "a-secret-key" not in stored

    def test_a_callback_without_one_is_stored_as_before(self, begin: Begin) -> None:
        harness = begin()
        assert self.questions(harness) == []
        progress = harness.visit("ask").progress
        assert progress is not None
        memory = progress.journal["run.1"]["memory"]
        assert memory.keys() == {"wait", "asked_at", "expires_at", "heartbeat_seconds"}

    def test_a_title_must_be_text(self, store: SqliteStore, tmp_path: Path) -> None:
        text = "steps: [{name: ask, run: [{action: callback, title: '{{ 1 }}'}]}]"
        harness = WaitingCallbackRun.start(store, tmp_path, text)
        (error,) = harness.run.errors
        assert (error["type"], error["message"]) == (
            "ParameterError",
            "`title` must be text, not a number",
        )


class TestDeclaredAnswer:
    def test_defaults_are_filled_in(self, begin: Begin) -> None:
        harness = begin(ANSWER)
        harness.answer({"yes": True})
        harness.answer({"yes": True})
        harness.answer({"yes": True, "note": "none given"})
        assert harness.rejection({"yes": False}) == "answered_otherwise"
        assert harness.finish().result == {"answer": {"yes": True, "note": "none given"}}

    @pytest.mark.parametrize(
        ("body", "problem"),
        [
            (None, "the answer must be an object with `yes`, `note`, not none"),
            (True, "the answer must be an object with `yes`, `note`, not true"),
            ({}, "missing field `yes`: its type is boolean"),
            ({"note": "x"}, "missing field `yes`: its type is boolean"),
            ({"yes": "no"}, "field `yes` must be of type boolean, not the text `no`"),
            ({"yes": 1}, "field `yes` must be of type boolean, not 1"),
            ({"yes": True, "note": "y"}, "field `note` must be `none given` or `x`, not `y`"),
            ({"yes": True, "noet": "x"}, "unknown field `noet`: did you mean `note`?"),
            ({"yes": True, "zzzz": 1}, "unknown field `zzzz`: the answer takes `yes`, `note`"),
            (
                {"ye": True},
                "missing field `yes`: its type is boolean; unknown field `ye`: did you mean `yes`?",
            ),
        ],
    )
    def test_a_wrong_answer_names_field_problem_and_fix(self, begin: Begin, body: Any, problem: str) -> None:
        harness = begin(ANSWER)
        with pytest.raises(RejectedError) as refusal:
            harness.answer(body)
        assert (refusal.value.reason, refusal.value.message) == ("invalid_answer", problem)
        assert harness.status is RunStatus.WAITING
        harness.answer({"yes": False})
        assert harness.finish().result == {"answer": {"yes": False, "note": "none given"}}

    def test_a_value_that_may_be_a_secret_is_not_repeated(self, begin: Begin) -> None:
        harness = begin(", answer: {password: integer}")
        with pytest.raises(RejectedError, match="field `password` must be of type integer, not text"):
            harness.answer({"password": "hunter2hunter2"})
