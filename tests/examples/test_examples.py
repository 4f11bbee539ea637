"""Every example compiles without diagnostics, and does what its comments say."""

from __future__ import annotations

import csv
import hmac
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from noetl.api.cli.local.playbook_finder import SiblingPlaybookFinder
from noetl.executor.actions import catalogue
from noetl.executor.actions._postgres_pool import CONNECTION_POOL
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.webhook_firing import (
    WebhookRequest,
    check_sender,
    find_webhook,
    perform_request,
)
from noetl.executor.errors import RejectedError
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.security.capabilities import service_capabilities
from noetl.executor.stores.interface import Store
from noetl.planner.compile import compile_playbook
from noetl.planner.schedules.firings import list_firings
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.operations import current_run
from tests.http_server import StubExchange, StubServer, serve

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TOTALS = {"europe": 1164.6, "america": 644.75, "asia": 531.25}
PASSWORD = "correct-horse-battery"

Example = Callable[..., RunHarness]


class ExampleRun(RunHarness):
    """A run of an example file, started in the parent folder. It finds playbooks in the same folder."""

    def __init__(self, store: Store, path: Path, input: dict[str, Any]) -> None:
        folder = path.parents[1]
        super().__init__(store, path.read_text("utf-8"), input, folder=folder, source=str(path))

    def executor(self, name: str = "one") -> VisitExecutor:
        return replace(super().executor(name), find_playbook=SiblingPlaybookFinder(self.store))


@pytest.fixture
def example(store: Store, tmp_path: Path) -> Example:
    """`example(name, **input)`: a finished run of an example, in a copy of the examples."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("out"))

    def run(name: str, **input: Any) -> RunHarness:
        return ExampleRun(store, tmp_path / "examples" / f"{name}.yaml", input).finish()

    return run


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_compiles_without_diagnostics(path: Path) -> None:
    assert compile_playbook(path.read_bytes(), catalogue()).diagnostics == ()


class TestQuickstart:
    def test_bad_rows_are_set_aside_and_the_rest_is_reported(self, example: Example, tmp_path: Path) -> None:
        play = example("quickstart")
        assert play.status is RunStatus.SUCCEEDED
        assert play.result == {"report": "examples/out/report.json", "totals": TOTALS, "rejected": 2}
        assert json.loads((tmp_path / "examples/out/report.json").read_text("utf-8")) == {
            "totals": TOTALS,
            "total": 2340.6,
            "orders": 10,
            "rejected": 2,
        }
        with (tmp_path / "examples/out/rejected.csv").open(newline="") as file:
            assert [row["id"] for row in csv.DictReader(file)] == ["1006", "1009"]
        assert play.visit("check").error is not None

    def test_the_branches_are_joined_once(self, example: Example) -> None:
        assert example("quickstart").visit_counts["report"] == 1

    def test_without_bad_rows_nothing_is_set_aside(self, example: Example, tmp_path: Path) -> None:
        (tmp_path / "good.csv").write_text("region,amount:number\neurope,1.5\nasia,2\n", "utf-8")
        play = example("quickstart", orders="good.csv", folder="out")
        assert play.result["totals"] == {"europe": 1.5, "america": 0, "asia": 2}
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]
        assert "set_aside" not in play.visit_counts

    def test_a_row_with_two_errors_counts_once(self, example: Example, tmp_path: Path) -> None:
        (tmp_path / "bad.csv").write_text("region,amount:number\n,-1\neurope,\nasia,0\n", "utf-8")
        play = example("quickstart", orders="bad.csv")
        assert play.result["rejected"] == 3
        assert play.result["totals"] == {"europe": 0, "america": 0, "asia": 0}

    def test_a_missing_file_fails_the_run(self, example: Example) -> None:
        play = example("quickstart", orders="nowhere.csv")
        assert play.status is RunStatus.FAILED
        assert play.error_types == ["FileError"]
        assert "nowhere.csv" in play.run.errors[0]["message"]


class TestRetryAndRecover:
    def test_the_unsteady_command_succeeds_at_the_third_attempt(self, example: Example) -> None:
        play = example("retry_and_recover")
        assert play.result == {"fetch": "succeeded", "asked": 3, "loaded": 3}
        assert play.visit("fetch").attempt == 3
        assert play.event_types("fetch").count("step.retrying") == 2
        assert play.visit_counts == {"fetch": 1, "warm_cache": 1, "drain": 3, "load": 1}

    def test_a_broken_import_is_undone(self, example: Example) -> None:
        play = example("retry_and_recover", broken=True)
        assert play.status is RunStatus.SUCCEEDED
        assert play.result["loaded"] == 0
        assert play.visit_counts["undo"] == 1

    def test_a_queue_that_is_never_empty_fails_the_run(self, example: Example) -> None:
        play = example("retry_and_recover", needed=20)
        assert play.status is RunStatus.FAILED
        assert play.error_types == ["QueueStuck"]
        assert play.run.errors[0]["message"] == "still not empty after 10 times"
        error = play.visit("drain").error
        assert error is not None
        assert error["type"] == "MaxVisitsExceeded"


class TestPortable:
    @pytest.fixture
    def priced(self, store: Store) -> Example:
        """A run without capabilities, as in a service without settings."""

        def run(**input: Any) -> RunHarness:
            play = RunHarness(store, (EXAMPLES / "portable.yaml").read_text("utf-8"), input, origin="service")
            play.capabilities = service_capabilities({})
            return play.finish()

        return run

    def test_no_capability_is_needed(self, priced: Example) -> None:
        assert priced().result == {"customer": "Ada", "net": 370.0, "total": 409.48}

    def test_discounts_and_taxes_follow_the_input(self, priced: Example) -> None:
        play = priced(customer="Bob", country="us", items=[{"price": 40, "count": 3}])
        assert play.result == {"customer": "Bob", "net": 120.0, "total": 120.0}

    def test_an_empty_order_is_refused(self, priced: Example) -> None:
        play = priced(items=[])
        assert play.status is RunStatus.FAILED
        assert play.error_types == ["EmptyOrder"]
        assert play.run.errors[0]["message"] == "Ada has ordered nothing"


class TestOnboardUser:
    @pytest.fixture(autouse=True)
    def database(
        self, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[psycopg.Connection[Any]]:
        """A connection to the database of the example, whose DSN has a password."""
        dsn = _with_password(postgres_dsn)
        monkeypatch.setenv("NOETL_SECRET_DSN", dsn)
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute("create table audit (user_id int, what text)")
            connection.execute("create table accounts (id serial primary key, user_id int unique, name text)")
            yield connection
        CONNECTION_POOL.close()

    @pytest.fixture
    def api(self) -> Iterator[StubServer]:
        """A server with the users 1 (new), 2 (known) and 3 (new; the first two requests fail)."""
        down = iter([503, 503])

        def answer(exchange: StubExchange) -> None:
            match exchange.command, exchange.path:
                case "GET", "/users/1":
                    exchange.reply_json({"name": "Ada's", "email": "ada@example.com", "new_account": True})
                case "GET", "/users/2":
                    exchange.reply_json({"name": "Bob", "email": "bob@example.com", "new_account": False})
                case "GET", "/users/3":
                    exchange.reply_json(
                        {"name": "Cy", "email": "cy@example.com", "new_account": True}, next(down, 200)
                    )
                case "POST", "/mails":
                    exchange.reply_json({"id": "mail-1"}, 201)
                case _:
                    exchange.reply_json({}, 404)

        with serve(answer) as server:
            yield server

    @pytest.fixture
    def onboard(self, example: Example, api: StubServer) -> Callable[[int], RunHarness]:
        return lambda user: example("onboard_user", user_id=user, api=api.url(""))

    def test_a_new_user_gets_a_mail_and_an_account(
        self, onboard: Callable[[int], RunHarness], api: StubServer, database: psycopg.Connection[Any]
    ) -> None:
        play = onboard(1)
        assert play.result == {"account": 1, "mail": "mail-1"}
        assert database.execute("select user_id, name from accounts").fetchall() == [(1, "Ada's")]
        assert database.execute("select * from audit").fetchall() == [(1, "onboarded Ada's")]
        mail = next(request for request in api.requests if request.method == "POST")
        assert json.loads(mail.body) == {"to": "ada@example.com", "template": "welcome"}
        assert mail.headers["idempotency-key"]
        assert play.visit_counts["finish"] == 1

    def test_each_run_has_its_own_idempotency_key(
        self, onboard: Callable[[int], RunHarness], api: StubServer
    ) -> None:
        onboard(1)
        onboard(1)
        keys = [request.headers["idempotency-key"] for request in api.requests if request.method == "POST"]
        assert len(set(keys)) == len(keys) == 2

    def test_a_known_user_is_not_changed(
        self, onboard: Callable[[int], RunHarness], api: StubServer, database: psycopg.Connection[Any]
    ) -> None:
        play = onboard(2)
        assert play.status is RunStatus.SUCCEEDED
        assert play.result == {"account": None, "mail": None}
        assert [request.method for request in api.requests] == ["GET"]
        assert database.execute("select count(*) from audit").fetchone() == (0,)

    def test_an_unknown_user_is_recorded_and_fails_the_run(
        self, onboard: Callable[[int], RunHarness], api: StubServer, database: psycopg.Connection[Any]
    ) -> None:
        play = onboard(404)
        assert play.status is RunStatus.FAILED
        assert play.error_types == ["UnknownUser"]
        assert play.run.errors[0]["message"] == "there is no user 404"
        assert len(api.requests) == 1
        assert database.execute("select * from audit").fetchall() == [(404, "unknown user")]

    def test_requests_are_retried_while_the_server_is_down(
        self, onboard: Callable[[int], RunHarness], api: StubServer
    ) -> None:
        play = onboard(3)
        assert play.result == {"account": 1, "mail": "mail-1"}
        assert [request.target for request in api.requests].count("/users/3") == 3
        assert play.visit("verify").attempt == 3

    def test_the_store_contains_no_secret(
        self, onboard: Callable[[int], RunHarness], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        works = os.environ["NOETL_SECRET_DSN"]
        assert onboard(1).status is RunStatus.SUCCEEDED
        fails = f"postgresql://nobody:{PASSWORD}@127.0.0.1:1/none"
        monkeypatch.setenv("NOETL_SECRET_DSN", fails)
        assert onboard(1).error_types == ["ConnectionFailed"]
        stored = b"".join(path.read_bytes() for path in tmp_path.glob("noetl.db*"))
        assert b"UnknownUser" in stored  # the text of the playbook can be read there
        for secret in (works, fails, PASSWORD):
            assert secret.encode() not in stored


def _with_password(dsn: str) -> str:
    """Return the DSN with a password. A server that trusts every client ignores it."""
    parts = urlsplit(dsn)
    user, at_sign, host = parts.netloc.rpartition("@")
    return (
        dsn
        if ":" in user
        else urlunsplit(parts._replace(netloc=f"{user or 'postgres'}:{PASSWORD}{at_sign or '@'}{host}"))
    )


class TestFanOut:
    def test_every_file_is_counted_and_temporary_files_are_removed(
        self, example: Example, tmp_path: Path
    ) -> None:
        play = example("fan_out", count=120)
        assert play.status is RunStatus.SUCCEEDED
        assert play.result == {"files": 121, "counted": 120, "words": 600}
        progress = [event.payload for event in play.events if event.type == "loop.progress"]
        assert [(counts["done"], counts["failed"]) for counts in progress] == [(100, 0), (121, 1)]
        assert not (tmp_path / "examples/out/scratch").exists()


class TestApproval:
    @pytest.fixture
    def waiting_run(
        self, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> tuple[RunHarness, str]:
        """A run that waits for an answer, and the token that it logged."""
        caplog.set_level("INFO", "noetl.playbook")
        play = ExampleRun(store, EXAMPLES / "approval.yaml", {})
        while play.execute_next(chained=True):
            pass
        assert play.status is RunStatus.WAITING
        return play, re.findall(r"noetl runs answer (\S+) -d '", caplog.text)[0]

    @pytest.mark.parametrize(
        ("answer", "outcome"),
        [
            ({"approved": True}, "paid"),
            ({"approved": False}, "refused: no reason"),
            ({"approved": False, "note": "too much"}, "refused: too much"),
        ],
    )
    def test_the_answer_determines_the_outcome(
        self, store: Store, waiting_run: tuple[RunHarness, str], answer: Any, outcome: str
    ) -> None:
        play, token = waiting_run
        store.waits.answer(hash_secret(token), answer, play.clock())
        assert play.finish().result == {"outcome": outcome}

    def test_another_answer_is_refused(self, store: Store, waiting_run: tuple[RunHarness, str]) -> None:
        play, token = waiting_run
        with pytest.raises(RejectedError, match="missing field `approved`: its type is boolean"):
            store.waits.answer(hash_secret(token), {}, play.clock())
        assert play.status is RunStatus.WAITING

    def test_without_an_answer_the_callback_expires(self, waiting_run: tuple[RunHarness, str]) -> None:
        play, _ = waiting_run
        before = play.clock()
        assert play.finish().result == {"outcome": "expired"}
        assert (play.status, play.clock() - before) == (RunStatus.SUCCEEDED, 600)

    def test_a_small_amount_needs_no_approval(self, example: Example) -> None:
        play = example("approval", amount=50)
        assert (play.result, play.visit_counts) == ({"outcome": "paid"}, {"look": 1, "pay": 1})


class TestCloseDay:
    def test_every_region_is_closed_in_its_own_run(self, example: Example, store: Store) -> None:
        play = example("close_day")
        assert {region["region"]: region["total"] for region in play.result["closed"]} == TOTALS
        assert (play.result["total"], play.result["missing"]) == (2340.6, [])
        runs, _ = store.runs.find(RunFilter(parent=play.id))
        assert sorted(current_run(store, run).input["region"] for run in runs) == sorted(TOTALS)

    def test_a_region_without_orders_is_reported(self, example: Example, store: Store) -> None:
        play = example("close_day", regions=["atlantis", "asia"])
        assert play.status is RunStatus.SUCCEEDED
        assert play.result == {
            "total": TOTALS["asia"],
            "closed": [{"region": "asia", "orders": 3, "total": TOTALS["asia"]}],
            "missing": ["atlantis"],
        }
        failed, _ = store.runs.find(RunFilter(parent=play.id, statuses=(RunStatus.FAILED,)))
        errors = [current_run(store, run).error for run in failed]
        assert [error and error["type"] for error in errors] == ["NoOrders"]

    def test_a_service_runs_it_on_the_evenings_from_monday_to_friday(self) -> None:
        plan = compile_playbook((EXAMPLES / "close_day.yaml").read_bytes(), catalogue()).plan
        assert plan is not None
        (trigger,) = plan.header.triggers
        friday = datetime(2027, 1, 1, 12, tzinfo=UTC).timestamp()
        assert [firing.local.isoformat() for firing in list_firings(trigger.schedule, friday, 2)] == [
            "2027-01-01T22:30:00+01:00",
            "2027-01-04T22:30:00+01:00",
        ]


class TestPaidInvoice:
    @pytest.mark.parametrize(("cents", "is_large"), [(99_999, False), (100_000, True)])
    def test_an_invoice_is_booked_and_a_large_one_is_announced(
        self, example: Example, cents: int, is_large: bool
    ) -> None:
        play = example("paid_invoice", invoice="in_1", cents=cents)
        assert play.status is RunStatus.SUCCEEDED
        assert play.result == {"invoice": "in_1", "amount": f"{cents / 100:.2f} EUR".replace("0.00", "0.0")}
        assert ("announce" in play.visit_counts) is is_large

    def test_a_signed_request_of_stripe_starts_it(self, store: Store) -> None:
        """The body is a part of an event of the type `invoice.paid`."""
        plan = compile_playbook((EXAMPLES / "paid_invoice.yaml").read_bytes(), catalogue()).plan
        assert plan is not None
        store.plans.save(plan)
        playbook = RegisteredPlaybook("default", "paid_invoice", None, plan.hash, store.clock())
        store.registry.register(playbook, triggers=plan.header.triggers)
        invoice = {"id": "in_1", "amount_paid": 250_000, "currency": "usd"}
        event = {"id": "evt_1", "type": "invoice.paid", "data": {"object": invoice}}
        body, secret = json.dumps(event).encode(), "whsec_of_stripe"
        firer = find_webhook(store, "default", "stripe/paid", store.clock())
        assert firer is not None
        signed = f"{int(firer.now)}.".encode() + body
        signature = hmac.digest(secret.encode(), signed, "sha256").hex()
        headers = {"stripe-signature": f"t={int(firer.now)},v1={signature}"}
        check_sender(firer, headers, body, {"NOETL_SECRET_STRIPE_WEBHOOK": secret})
        request = WebhookRequest("POST", headers, {}, body, event)
        delivery = perform_request(firer, request, store.clock)
        assert delivery.run_id is not None
        run = store.runs.get("default", delivery.run_id)
        assert run is not None
        assert run.input == {"invoice": "in_1", "cents": 250_000, "currency": "usd"}
