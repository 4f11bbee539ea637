"""The delivery of notifications to real receivers: retries, pauses of channels, and the order of a run."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from noetl.executor.channels import http_post
from noetl.executor.channels.sender import Sender
from noetl.executor.clients import aws
from noetl.executor.engine import delivery
from noetl.executor.engine.delivery import Courier, make_courier, perform_late
from noetl.executor.engine.outbox import perform_entry
from noetl.executor.engine.start import new_run
from noetl.executor.errors import ActionError, SettingError, StoreAwayError
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    PROBE_SECONDS,
    RETRY_SECONDS,
    SLOW_SECONDS,
    begin_attempt,
    delivery_state,
    give_up,
    retry_delivery,
)
from noetl.executor.model.outbox import (
    NotificationSearch,
    OutboxEntry,
    OutboxKind,
    entry_id,
    postpone_entry,
)
from noetl.executor.model.run import RunEnding, RunStatus
from noetl.executor.model.run_entries import entries_of_start
from noetl.executor.model.start_request import StartRequest
from noetl.executor.runtime import channel_attempts, notification_loop
from noetl.executor.runtime.notification_loop import NotificationLoop
from noetl.executor.security.capabilities import Capabilities, service_capabilities
from noetl.executor.security.event_buses import read_allowed_buses
from noetl.executor.security.secret_hosts import SecretHosts
from noetl.executor.security.webhook_signatures import check_signature
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.worker import Worker, WorkerSettings
from noetl.planner.frozen import replace
from noetl.planner.trigger_sources import WebhookAuth
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract.outbox import claim_end, start_late_run
from tests.aws import Client
from tests.http_server import StubExchange, StubServer, find_free_port, serve
from tests.post_office import LOOPBACK, START, PostOffice, id_of, replace_time

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def answering(*statuses: int, **headers: Any) -> Callable[[StubExchange], None]:
    """Return what answers with these statuses in turn. The last one is repeated."""
    left = list(statuses)

    def answer(exchange: StubExchange) -> None:
        exchange.reply(left.pop(0) if len(left) > 1 else left[0], **headers)

    return answer


@contextmanager
def receiver(*statuses: int, **headers: str) -> Iterator[StubServer]:
    with serve(answering(*(statuses or (204,)), **headers)) as server:
        yield server


@contextmanager
def silent_receiver() -> Iterator[tuple[StubServer, threading.Event]]:
    """Serve without an answer. Return the server, and what is set at the first request."""
    requested, released = threading.Event(), threading.Event()

    def hang(_exchange: StubExchange) -> None:
        requested.set()
        released.wait(30)

    with serve(hang) as server:
        try:
            yield server, requested
        finally:
            released.set()


class TestSuccess:
    def test_a_signed_message_arrives_and_its_entry_is_removed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        post = PostOffice()
        with receiver(200) as server, caplog.at_level(logging.INFO, "noetl.notifications"):
            post.add_channel(server.url("/hook"), settings={"secret": SECRET})
            post.add(error={"type": "Timeout", "step": "load", "message": "too slow"})
            post.deliver_due()
        (request,) = server.requests
        body = json.loads(request.body)
        assert body == {
            "type": "run.failed",
            "timestamp": "2001-09-09T01:46:40.000000Z",
            "data": {
                "tenant": "default",
                "workflow_id": "r1234567890",
                "playbook": "import",
                "version": "3",
                "status": "failed",
                "error": {"type": "Timeout", "step": "load", "message": "too slow"},
                "url": "https://noetl.example.com/ui/runs/r1234567890",
            },
        }
        assert (request.method, request.target, request.headers["webhook-id"]) == ("POST", "/hook", "msg_n1")
        assert request.headers["idempotency-key"] == "msg_n1"
        assert post.read() is None
        assert [record.getMessage() for record in caplog.records] == ["notification.sent: import to ops"]
        check_signature(WebhookAuth("standard"), [SECRET], request.headers, request.body, START)

    def test_slack_receives_a_text_with_a_link(self) -> None:
        post = PostOffice()
        with receiver(200) as server:
            post.add_channel(server.url("/services/T/B/x"), type="slack")
            post.add(error={"type": "E", "step": None, "message": "<!channel> & more"})
            post.add("n2", event="late", status="running")
            post.add("n3", event="test", status="test")
            post.deliver_due()
        texts = [json.loads(request.body)["text"] for request in server.requests]
        link = "https://noetl.example.com/ui/runs/r1234567890"
        assert texts == [
            f"import has failed (run r1234567): E: &lt;!channel&gt; &amp; more\n{link}",
            f"import is late (run r1234567)\n{link}",
            "This is a test of NoETL. The channel works.",
        ]

    def test_without_a_public_address_there_is_no_link(self) -> None:
        post = PostOffice()
        courier = replace(post.courier, public_url=None)
        with receiver() as server:
            post.add_channel(server.url())
            courier.deliver(post.add(error={"type": "E", "step": "a", "message": "no"}), START)
        assert json.loads(server.requests[0].body)["data"]["url"] is None
        assert "webhook-signature" not in server.requests[0].headers


class TestRetries:
    def test_a_receiver_that_is_away_for_a_day_gets_all_attempts_with_one_id(self) -> None:
        post = PostOffice()
        with receiver(503) as server:
            post.add_channel(server.url())
            post.add()
            pauses = []
            for _ in range(MAX_ATTEMPTS - 1):
                post.deliver_due()
                pauses.append(post.due_in())
                post.clock.advance(pauses[-1] or 0.0)
            assert pauses == list(RETRY_SECONDS)
            assert sum(RETRY_SECONDS) > 75 * 3600
            assert delivery_state(post.existing()) == "pending"
            post.deliver_due()
        failed = post.existing()
        assert delivery_state(failed) == "undelivered"
        assert failed.due_at is None
        assert failed.expires_at == post.clock() + 30 * 86_400
        assert failed.record["problem"] == f"`127.0.0.1:{server.port}` answered 503"
        assert {request.headers["webhook-id"] for request in server.requests} == {"msg_n1"}
        assert len(server.requests) == MAX_ATTEMPTS
        # A person sends it again, with all attempts.
        with receiver(200) as server:
            channel = post.store.channels.get("default", "ops")
            moved = replace(channel, target=server.url(), edition=channel.edition + 1)
            assert post.store.channels.put(moved, channel)
            assert post.store.outbox.change(failed, retry_delivery(failed, post.clock()))
            post.clock.advance(PROBE_SECONDS)
            post.deliver_due()
        assert post.read() is None

    @pytest.mark.parametrize(
        ("status", "headers", "seconds"),
        [
            (429, {"retry_after": "120"}, 120.0),
            (503, {"retry_after": "1"}, 5.0),
            (503, {"retry_after": "soon"}, 5.0),
            (503, {"retry_after": "99999999999 Dec 23:59 99999999999"}, 5.0),
            (400, {"retry_after": "120"}, 5.0),
            (302, {"location": "http://127.0.0.1:1/"}, 5.0),
        ],
    )
    def test_the_receiver_may_ask_for_a_later_time(
        self, status: int, headers: dict[str, str], seconds: float
    ) -> None:
        post = PostOffice()
        with receiver(status, **headers) as server:
            post.add_channel(server.url())
            post.add()
            post.deliver_due()
            assert post.due_in() == seconds
            assert len(server.requests) == 1

    def test_a_notification_that_cannot_be_sent_for_an_unknown_reason_ends(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        post = PostOffice()
        post.add_channel("https://example.com")
        post.add()

        def fail(*_: object) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(delivery, "make_message", fail)
        for _ in range(2 * MAX_ATTEMPTS):
            if (due_in := post.due_in()) is None:
                break
            post.clock.advance(due_in)
            post.deliver_due()
        ended = post.existing()
        assert (delivery_state(ended), ended.record["attempts"]) == ("undelivered", MAX_ATTEMPTS)
        assert ended.record["problem"] == "the message could not be sent (ValueError)"
        assert "a bug" in caplog.text

    def test_a_receiver_that_is_too_slow_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_post, "SEND_SECONDS", 0.2)
        post = PostOffice()
        with silent_receiver() as (server, _):
            post.add_channel(server.url())
            post.add()
            post.deliver_due()
        assert post.existing().record["problem"] == f"`127.0.0.1:{server.port}` did not answer within 0.2 s"

    def test_a_redirect_is_not_followed(self) -> None:
        post = PostOffice()
        with receiver(307, location="/other") as server:
            post.add_channel(server.url())
            post.add()
            post.deliver_due()
        assert len(server.requests) == 1
        assert "redirects are not followed" in post.existing().record["problem"]

    def test_a_port_without_a_receiver_fails(self) -> None:
        post = PostOffice()
        port = find_free_port()
        post.add_channel(f"http://127.0.0.1:{port}/")
        post.add()
        post.deliver_due()
        assert f"no response from `127.0.0.1:{port}`" in post.existing().record["problem"]

    def test_a_process_that_dies_after_the_request_sends_it_again_with_the_same_id(self) -> None:
        post = PostOffice()
        change, calls = post.store.outbox.change, []

        def die_second(*arguments: Any) -> bool:
            calls.append(arguments)
            if len(calls) == 2:
                raise StoreAwayError("killed")
            return change(*arguments)  # type: ignore[no-any-return]

        with receiver() as server:
            post.add_channel(server.url())
            entry = post.add()
            post.store.outbox.change = die_second
            with pytest.raises(StoreAwayError):
                post.courier.deliver(entry, post.clock())
            assert post.due_in() == LEASE_SECONDS
            # Another process does not send it meanwhile.
            assert post.deliver_due() == []
            assert not post.courier.deliver(entry, post.clock())
            post.clock.advance(LEASE_SECONDS)
            assert post.deliver_due() == ["n1"]
        assert [request.headers["webhook-id"] for request in server.requests] == ["msg_n1"] * 2
        assert post.read() is None


class TestChannels:
    def test_410_pauses_the_channel_with_its_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        post = PostOffice()
        with receiver(410, 204) as server:
            post.add_channel(server.url())
            post.add()
            post.add("n2")
            post.deliver_due()
            channel = post.store.channels.get("default", "ops")
            assert channel.is_paused
            assert channel.paused_reason == f"`127.0.0.1:{server.port}` answered 410 Gone"
            assert len(server.requests) == 1
        assert [delivery_state(post.existing(id)) for id in ("n1", "n2")] == ["held", "held"]
        assert post.existing().expires_at is not None
        assert "channel.paused: import to ops" in [record.getMessage() for record in caplog.records]

    def test_one_that_is_resumed_while_an_entry_is_held_sends_it(self) -> None:
        post = PostOffice()
        channel = post.add_channel("http://127.0.0.1:1", is_paused=True)
        get, reads = post.store.channels.get, []

        def resume_meanwhile(*arguments: Any) -> Channel | None:
            reads.append(arguments)
            if len(reads) == 2:
                post.store.channels.put(replace(channel, is_paused=False, edition=2), channel)
            return get(*arguments)  # type: ignore[no-any-return]

        post.add()
        post.store.channels.get = resume_meanwhile
        post.deliver_due()
        assert (post.due_in(), delivery_state(post.existing())) == (0.0, "pending")

    def test_an_entry_that_another_process_has_changed_is_not_held(self) -> None:
        post = PostOffice()
        post.add_channel("http://127.0.0.1:1", is_paused=True)
        entry = post.add()
        assert post.store.outbox.change(entry, None)
        assert not post.courier.deliver(entry, START)

    @pytest.mark.parametrize("refusals", [1, 100])
    def test_a_change_of_a_channel_is_tried_again(
        self, refusals: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post = PostOffice()
        with receiver(503) as server:
            post.add_channel(server.url())
            post.add()
            put, refused = post.store.channels.put, iter([False] * refusals)
            monkeypatch.setattr(post.store.channels, "put", lambda *pair: next(refused, True) and put(*pair))
            post.deliver_due()
        channel = post.store.channels.get("default", "ops")
        assert (channel.retry_at is None) == (refusals == 100)
        assert post.due_in() == RETRY_SECONDS[0]

    def test_a_channel_that_is_removed_meanwhile_is_not_changed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post = PostOffice()
        with receiver(503) as server:
            channel = post.add_channel(server.url())
            post.add()
            monkeypatch.setattr(
                post.store.channels, "put", lambda *_: not post.store.channels.remove(channel)
            )
            post.deliver_due()
        assert post.store.channels.get("default", "ops") is None
        assert post.due_in() == RETRY_SECONDS[0]

    def test_one_that_does_not_exist_leaves_its_notifications_undelivered(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        post = PostOffice()
        run = start_late_run(post.store, late_at=None)
        post.add(run_id=run.id)
        post.deliver_due()
        problem = "channel `ops` does not exist"
        assert delivery_state(post.existing()) == "undelivered"
        assert post.existing().record["problem"] == problem
        assert [record.getMessage() for record in caplog.records] == ["notification.failed: import to ops"]
        event = post.store.runs.events(run.id)[-1]
        payload = {"channel": "ops", "event": "failed", "notification": "n1", "reason": problem}
        assert (event.type, event.at, event.payload) == ("notification.failed", post.clock(), payload)

    def test_an_address_inside_is_refused(self) -> None:
        post = PostOffice()
        courier = replace(post.courier, sender=Sender())
        with receiver() as server:
            post.add_channel(server.url())
            courier.deliver(post.add(), START)
        assert server.requests == []
        assert "`webhook` must not reach" in post.existing().record["problem"]

    def test_the_url_and_the_secret_may_be_secrets(self) -> None:
        with receiver() as server:
            environ = {"NOETL_SECRET_HOOK": server.url("/private"), "NOETL_SECRET_SIGN": SECRET}
            hosts = SecretHosts({("default", "HOOK"): ("127.0.0.1",)})
            post = PostOffice(secret_hosts=hosts, environ=environ)
            post.add_channel("{{ secrets.HOOK }}", settings={"secret": "{{ secrets.SIGN }}"})
            post.add()
            post.deliver_due()
            assert [request.target for request in server.requests] == ["/private"]
            assert server.requests[0].headers["webhook-signature"].startswith("v1,")
            refused = PostOffice(environ=environ)
            refused.add_channel("{{ secrets.HOOK }}")
            refused.add()
            refused.deliver_due()
            assert len(server.requests) == 1
        assert "secret `HOOK` must not go to" in refused.existing().record["problem"]

    @pytest.mark.parametrize(
        ("target", "settings", "problem"),
        [
            ("ftp://example.com", {}, "must begin with http"),
            ("https://exa mple.com", {}, "a host that cannot exist"),
            ("https://a..b/", {}, "a host that cannot exist"),
            ("https://example.com/{{ secrets.TOKEN }}", {}, "exactly one `{{ secrets.NAME }}`"),
            ("http://me:word@127.0.0.1/", {}, "must not contain a user name"),
            ("{{ secrets.NONE }}", {}, "unknown secret `NONE`"),
            ("http://127.0.0.1:1", {"secret": "whsec_?"}, "the signing secret is invalid"),
        ],
    )
    def test_a_channel_that_cannot_send_fails_with_a_reason(
        self, target: str, settings: dict[str, str], problem: str
    ) -> None:
        post = PostOffice(environ={})
        post.add_channel(target, settings=settings)
        post.add()
        post.deliver_due()
        assert problem in post.existing().record["problem"]


class TestEventBridge:
    def test_a_bus_gets_the_message_as_an_event(self, moto_aws: Client) -> None:
        events, queue = moto_aws("events"), moto_aws("sqs")
        address = queue.create_queue(QueueName="events")["QueueUrl"]
        names = ["QueueArn"]
        attributes = queue.get_queue_attributes(QueueUrl=address, AttributeNames=names)["Attributes"]
        events.put_rule(Name="noetl", EventPattern=json.dumps({"source": ["noetl"]}))
        events.put_targets(Rule="noetl", Targets=[{"Id": "queue", "Arn": attributes["QueueArn"]}])
        office = PostOffice(buses=read_allowed_buses({"NOETL_EVENT_BUSES": "default"}))
        office.add_channel("default", type="eventbridge")
        office.add(error={"type": "E", "step": "load", "message": "no"})
        office.deliver_due()
        assert office.read() is None
        (received,) = queue.receive_message(QueueUrl=address)["Messages"]
        event = json.loads(received["Body"])
        assert (event["source"], event["detail-type"]) == ("noetl", "run.failed")
        assert (event["detail"]["id"], event["detail"]["data"]["playbook"]) == ("msg_n1", "import")

    @pytest.mark.parametrize("rules", ["", "ops2; acme/ops", "acme/default"])
    def test_a_bus_that_is_not_allowed_gets_nothing(self, rules: str) -> None:
        office = PostOffice(buses=read_allowed_buses({"NOETL_EVENT_BUSES": rules}))
        office.add_channel("ops", type="eventbridge")
        office.add()
        office.deliver_due()
        problem = "event bus `ops` is not allowed: NOETL_EVENT_BUSES needs the rule `ops`"
        assert office.existing().record["problem"] == problem

    def test_rules_of_buses_belong_to_tenants(self) -> None:
        arn = "arn:aws:events:eu-central-1:123456789012:event-bus/ops"
        allowed = read_allowed_buses({"NOETL_EVENT_BUSES": f"{arn}\nacme/{arn} ; acme/default"})
        assert allowed.missing_rule("default", arn) is None
        assert allowed.missing_rule("acme", arn) is None
        assert allowed.missing_rule("zoo", arn) == f"zoo/{arn}"
        assert allowed.missing_rule("default", "default") == "default"
        assert (
            service_capabilities({"NOETL_EVENT_BUSES": arn}).event_buses.missing_rule("default", arn) is None
        )
        with pytest.raises(SettingError, match="must be a bus or its ARN"):
            read_allowed_buses({"NOETL_EVENT_BUSES": "a b"})

    def test_a_bus_that_cannot_be_used_fails_with_a_reason(
        self, moto_aws: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        office = PostOffice(buses=read_allowed_buses({"NOETL_EVENT_BUSES": "none"}))
        office.add_channel("none", type="eventbridge")
        office.add()
        with mock_client(monkeypatch, {"FailedEntryCount": 1, "Entries": [REFUSED]}):
            office.deliver_due()
        assert office.existing().record["problem"] == "event bus `none`: no such bus (NotFound)"
        with mock_client(
            monkeypatch, ActionError("AccessDenied", "event bus `none`: refused", retryable=False)
        ):
            office.clock.advance(PROBE_SECONDS)
            office.deliver_due()
        assert office.existing().record["problem"] == "event bus `none`: refused"


REFUSED = {"ErrorCode": "NotFound", "ErrorMessage": "no such bus"}


@contextmanager
def mock_client(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Iterator[None]:
    """Let EventBridge answer with a value or an error, which moto cannot."""

    def call(_seconds: float, _subject: str, _call: Callable[[], Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with monkeypatch.context() as patches:
        patches.setattr(aws, "call_with_timeout", call)
        yield


class TestProbes:
    def test_a_channel_that_fails_has_one_probe_at_a_time(self) -> None:
        post = PostOffice()
        with receiver(503, 503, 503, 200) as server:
            post.add_channel(server.url())
            for number in range(20):
                post.add(f"n{number:02}")
            post.deliver_due()
            # The others were moved to the time of the next attempt of the first.
            assert len(server.requests) == 1
            assert {post.due_in(f"n{number:02}") for number in range(20)} == {5.0}
            post.clock.advance(5)
            post.deliver_due()
            assert len(server.requests) == 2
            post.clock.advance(PROBE_SECONDS)
            post.deliver_due()
            assert len(server.requests) == 3
            for _ in range(40):
                post.clock.advance(PROBE_SECONDS)
                post.deliver_due()
        # The fourth request has succeeded, so all others followed.
        assert len(server.requests) == 3 + 20
        assert [post.read(f"n{number:02}") for number in range(20)] == [None] * 20
        assert post.store.channels.get("default", "ops").retry_at is None

    def test_a_status_of_400_to_499_delays_no_other_notification(self) -> None:
        post = PostOffice()
        with receiver(422, 200) as server:
            post.add_channel(server.url())
            post.add()
            post.add("n2")
            post.deliver_due()
            assert len(server.requests) == 2
        assert post.due_in() == 5.0
        assert post.read("n2") is None

    def test_a_probe_that_is_refused_with_400_to_499_has_reached_the_receiver(self) -> None:
        post = PostOffice()
        with receiver(422, 200) as server:
            post.add_channel(server.url(), retry_at=START - 1)
            post.add()
            post.deliver_due()
            assert post.store.channels.get("default", "ops").retry_at is None
            post.add("n2")
            post.deliver_due()
            assert len(server.requests) == 2
        assert post.read("n2") is None

    def test_another_process_that_probes_first_wins(self) -> None:
        post = PostOffice()
        channel = post.add_channel("http://127.0.0.1:1", retry_at=START - 1)
        entry = post.add()
        put = post.store.channels.put

        def lose(written: Channel, read: Channel | None) -> bool:
            put(replace(channel, retry_at=START + 20, edition=2), channel)
            return put(written, read)  # type: ignore[no-any-return]

        post.store.channels.put = lose
        post.courier.deliver(entry, post.clock())
        assert post.due_in() == delivery.TURN_SECONDS
        assert post.existing().record["attempts"] == 0

    def test_a_probe_whose_attempt_is_lost_leaves_its_channel_free(self) -> None:
        """Else the channel was blocked for the time of a lease, although nothing was sent."""
        post = PostOffice()
        post.add_channel("http://127.0.0.1:1", retry_at=START - 1)
        entry = post.add()
        assert post.store.outbox.change(entry, postpone_entry(entry, START + 5))
        assert not post.courier.deliver(entry, post.clock())
        assert post.store.channels.get("default", "ops").retry_at == START - 1

    def test_a_lost_attempt_keeps_a_change_of_its_channel(self) -> None:
        post = PostOffice()
        post.add_channel("http://127.0.0.1:1", retry_at=START - 1)
        entry = post.add()

        def lose(*_: object) -> bool:
            channel = post.store.channels.get("default", "ops")
            assert post.store.channels.put(
                replace(channel, is_paused=True, edition=channel.edition + 1), channel
            )
            return False

        post.store.outbox.change = lose
        assert not post.courier.deliver(entry, post.clock())
        assert post.store.channels.get("default", "ops").is_paused


class TestSlowReceivers:
    def test_a_slow_receiver_gets_one_notification_at_a_time_until_it_is_quick(self) -> None:
        post = PostOffice()
        slow_seconds = [SLOW_SECONDS + 1.0, SLOW_SECONDS + 1.0, 0.0]

        def answer_slowly(exchange: StubExchange) -> None:
            post.clock.advance(slow_seconds.pop(0) if slow_seconds else 0.0)
            exchange.reply(204)

        with serve(answer_slowly) as server:
            channel = post.add_channel(server.url())
            entries = [post.add(f"n{number}") for number in range(5)]
            post.courier.deliver(entries[0], post.clock())
            probed = post.store.channels.get("default", "ops")
            assert probed.retry_at == post.clock()
            # An invocation that has read the channel before cannot send any more, and waits.
            put = post.store.channels.put
            post.store.channels.put = lambda written, _: put(written, channel)
            post.courier.deliver(entries[1], post.clock())
            post.store.channels.put = put
            assert (len(server.requests), post.due_in("n1")) == (1, delivery.TURN_SECONDS)
            post.courier.deliver(entries[2], post.clock())
            assert post.store.channels.get("default", "ops").retry_at == post.clock()
            post.courier.deliver(entries[3], post.clock())
            assert post.store.channels.get("default", "ops").retry_at is None
        assert len(server.requests) == 3


class TestOrder:
    def test_those_of_a_run_and_a_channel_arrive_in_order(self) -> None:
        post = PostOffice()
        with receiver(422, 200) as server:
            post.add_channel(server.url())
            post.add("late", event="late", status="running")
            post.clock.advance(1)
            post.add("end", waits_for=["gone", "late"])
            post.clock.advance(-1)
            post.deliver_due()
            post.clock.advance(1)
            post.deliver_due()
            # The first one has failed, so the second one waits for its next attempt.
            assert (post.due_in("late"), post.due_in("end")) == (4.0, 5.0)
            post.clock.advance(4)
            post.deliver_due()
            post.clock.advance(1)
            post.deliver_due()
        types = [json.loads(request.body)["type"] for request in server.requests]
        assert types == ["run.late", "run.late", "run.failed"]

    def test_one_waits_while_the_earlier_one_is_sent_but_not_for_an_undelivered_one(self) -> None:
        post = PostOffice()
        with receiver() as server:
            post.add_channel(server.url())
            first = post.add("first")
            started = begin_attempt(first, post.clock())
            assert post.store.outbox.change(first, started)
            post.clock.advance(1)
            post.add("second", waits_for=["first"])
            post.deliver_due()
            assert (server.requests, post.due_in("second")) == ([], delivery.TURN_SECONDS)
            given_up = give_up(started, "no", post.clock())
            assert post.store.outbox.change(started, given_up)
            post.clock.advance(1)
            post.deliver_due()
        assert post.read("second") is None


class TestLate:
    def add_late_run(self, post: PostOffice) -> OutboxEntry:
        run = start_late_run(post.store, late_at=START)
        (entry,) = entries_of_start(run)
        assert post.store.outbox.get("default", entry.id) == entry
        return entry

    def test_a_run_that_goes_on_is_reported_once(self) -> None:
        post = PostOffice()
        entry = self.add_late_run(post)
        post.add_channel("http://127.0.0.1:1", events=("late",))
        assert perform_late(post.store, entry, post.clock())
        assert post.store.outbox.get("default", entry.id) is None
        ((added,), _) = post.store.outbox.find("default", OutboxKind.NOTIFICATION)
        assert (added.record["event"], added.record["channel"], added.record["run_id"]) == (
            "late",
            "ops",
            "r1",
        )
        assert post.store.runs.get("default", "r1").status.is_final is False
        # Another process has read the same entry.
        assert not perform_late(post.store, entry, post.clock())

    def test_a_run_that_has_ended_or_is_deleted_is_not_reported(self) -> None:
        post = PostOffice()
        post.add_channel("http://127.0.0.1:1", events=("late",))
        ended = claim_end(post.store)
        late = OutboxEntry(
            "e1", "default", OutboxKind.LATE, START, START, {"run_id": ended.run.id, "playbook": "p"}
        )
        deleted = replace(late, id="e2", record={"run_id": "gone", "playbook": "p"})
        post.store.queue.finish(ended, RunEnding(RunStatus.SUCCEEDED, None, [], (late, deleted)), START)
        assert perform_late(post.store, late, START)
        assert perform_late(post.store, deleted, START)
        assert post.store.outbox.find("default", OutboxKind.NOTIFICATION)[0] == []


def recording_loop(post: PostOffice) -> tuple[NotificationLoop, list[tuple[str, str]]]:
    """Return a loop that sends nothing, and the list of tenants and channels whose attempts have begun."""
    begun: list[tuple[str, str]] = []

    class Recording(Courier):
        """A courier whose receivers answer at once."""

        def deliver(self, entry: OutboxEntry, now: float) -> bool:
            begun.append((entry.tenant, entry.record["channel"]))
            return self.store.outbox.change(entry, None)

    return NotificationLoop(Recording(post.store, post.courier.sender), threading.Event()), begun


def start_all(loop: NotificationLoop) -> None:
    """Begin due notifications once, and wait for their ends."""
    with ThreadPoolExecutor(channel_attempts.MAX_ATTEMPTS) as senders:
        loop.start_due(senders)


class TestLoop:
    def test_a_slow_receiver_does_not_delay_others(self) -> None:
        post = PostOffice()
        stopping = threading.Event()
        sender = Sender(LOOPBACK, stopping=stopping)
        loop = NotificationLoop(replace(post.courier, sender=sender), stopping)
        with silent_receiver() as (slow, slow_began), receiver() as quick:
            post.add_channel(slow.url(), "slow")
            post.add_channel(quick.url(), "quick")
            for number in range(150):
                post.add(id_of(f"s{number:03}", "slow"), "slow")
            post.add(id_of("q1", "quick"), "quick")
            post.add_channel(quick.url(), "quick", tenant="other")
            post.add(id_of("q2", "quick", "other"), "quick", tenant="other")
            thread = threading.Thread(target=loop.run)
            thread.start()
            try:
                assert slow_began.wait(10)
                deadline = time.monotonic() + 20
                while len(quick.requests) < 2 and time.monotonic() < deadline:
                    time.sleep(0.01)
                received = len(slow.requests)
            finally:
                stopping.set()
                thread.join(10)
            assert not thread.is_alive()
        tenants = [json.loads(request.body)["data"]["tenant"] for request in quick.requests]
        assert (sorted(tenants), received) == (["default", "other"], 1)

    def test_many_receivers_that_hang_do_not_delay_others_of_their_tenant(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else 20 of them took the four places of the tenant for 15 seconds each."""
        post, seconds, begun, is_released = PostOffice(), [0.0], [], threading.Event()
        replace_time(monkeypatch, seconds)
        for number in range(40):
            post.add_channel("http://127.0.0.1:1", f"c{number:02}")
            post.add(id_of(f"n{number:02}", f"c{number:02}"), f"c{number:02}")
        post.add_channel("http://127.0.0.1:1", "good")

        class Hanging(Courier):
            """A courier all of whose receivers hang but one."""

            def deliver(self, entry: OutboxEntry, now: float) -> bool:
                begun.append(entry.record["channel"])
                if entry.record["channel"] != "good":
                    is_released.wait(10)
                return self.store.outbox.change(entry, None)

        loop = NotificationLoop(Hanging(post.store, post.courier.sender), threading.Event())

        def start_due(senders: ThreadPoolExecutor) -> int:
            seconds[0] += channel_attempts.PATIENCE_SECONDS
            return loop.start_due(senders)

        with ThreadPoolExecutor(channel_attempts.MAX_ATTEMPTS) as senders:
            assert [start_due(senders) for _ in range(9)] == [4] * 8 + [0]
            is_released.set()
        assert len(begun) == channel_attempts.MAX_ATTEMPTS_OF_TENANT
        while len(begun) < 40:
            with ThreadPoolExecutor(channel_attempts.MAX_ATTEMPTS) as senders:
                start_due(senders)
        is_released.clear()
        # Those that were slow leave places to the others.
        for number in range(4):
            post.add(id_of(f"m{number:02}", f"c{number:02}"), f"c{number:02}")
        post.add(id_of("good", "good"), "good")
        with ThreadPoolExecutor(channel_attempts.MAX_ATTEMPTS) as senders:
            assert start_due(senders) == 3
            is_released.set()
        assert sorted(begun[-3:]) == ["c00", "c01", "good"]

    def test_channels_with_many_due_notifications_alternate_with_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else those of a channel that answers quickly hid the others of its tenant until few were left."""
        post = PostOffice()
        replace_time(monkeypatch, [0.0])
        channels = [f"c{number:02}" for number in range(20)]
        for name in channels:
            post.add_channel("http://127.0.0.1:1", name)
            for place in range(30 if name < "c12" else 2):
                post.add(id_of(f"{name}-{place}", name), name)
            post.clock.now += 1
        begun, is_released = list[str](), threading.Event()

        class Served(Courier):
            """A courier whose attempts end after the poll that has begun them."""

            def deliver(self, entry: OutboxEntry, now: float) -> bool:
                begun.append(entry.record["channel"])
                is_released.wait(10)
                return self.store.outbox.change(entry, None)

        loop = NotificationLoop(Served(post.store, post.courier.sender), threading.Event())
        rounds = list[list[str]]()
        for _ in range(2):
            begun.clear()
            for _ in range(len(channels) // channel_attempts.MAX_SENDERS_OF_TENANT):
                is_released.clear()
                with ThreadPoolExecutor(channel_attempts.MAX_ATTEMPTS) as senders:
                    loop.start_due(senders)
                    is_released.set()
            rounds.append(sorted(begun))
        assert rounds == [channels] * 2

    def test_a_tenant_with_many_channels_does_not_hide_another(self) -> None:
        post, begun, is_released = PostOffice(), list[str](), threading.Event()
        for tenant, count in (("default", 40), ("second", 40), ("third", 1)):
            for number in range(count):
                post.add_channel("http://127.0.0.1:1", f"c{number}", tenant=tenant)
                for place in range(5):
                    id = id_of(f"{number}-{place}", f"c{number}", tenant)
                    post.add(id, f"c{number}", tenant=tenant)

        class Gated(Courier):
            """A courier that waits."""

            def deliver(self, entry: OutboxEntry, now: float) -> bool:
                begun.append(entry.tenant)
                is_released.wait(10)
                return self.store.outbox.change(entry, None)

        loop = NotificationLoop(Gated(post.store, post.courier.sender), threading.Event())
        for count in (8, 8):
            begun.clear()
            is_released.clear()
            with ThreadPoolExecutor(8) as senders:
                assert loop.start_due(senders) == count
                is_released.set()
            if "third" in begun:
                break
        assert "third" in begun

    def test_notifications_that_wait_for_a_slow_attempt_do_not_change(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The attempt may not have written its own notification yet, and would lose it."""
        post, is_released = PostOffice(), threading.Event()
        monkeypatch.setattr(notification_loop, "MAX_DUE", 5)
        post.add_channel("http://127.0.0.1:1", "slow")
        post.add_channel("http://127.0.0.1:1", "quick")
        slow = [post.add(id_of(f"n{number}", "slow"), "slow") for number in range(7)]
        quick = post.add(id_of("q", "quick"), "quick")
        sent = []

        class Stalled(Courier):
            """A courier that has no lease yet when the loop reads again."""

            def deliver(self, entry: OutboxEntry, now: float) -> bool:
                is_released.wait(10)
                sent.append((entry.id, self.store.outbox.change(entry, begin_attempt(entry, now))))
                return True

        loop = NotificationLoop(Stalled(post.store, post.courier.sender), threading.Event())
        with ThreadPoolExecutor(channel_attempts.MAX_ATTEMPTS) as senders:
            assert [loop.start_due(senders) for _ in range(2)] == [2, 0]
            assert [post.existing(entry.id) for entry in slow] == slow
            is_released.set()
        assert [is_sent for _, is_sent in sent] == [True, True]
        # A process begins at any of those of a channel that it has read.
        (first,) = {id for id, _ in sent} - {quick.id}
        assert first in [entry.id for entry in slow]

    def test_ids_of_an_earlier_version_hide_no_other_tenant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else each of them was a channel of its own in a round, and another tenant had one turn in 1,000."""
        post, seconds = PostOffice(), [0.0]
        replace_time(monkeypatch, seconds)
        monkeypatch.setattr(notification_loop, "MAX_DUE", 20)
        for number in range(100):
            post.add(entry_id("r1", number))
        post.clock.now += 1
        for number in range(20):
            post.add(id_of(f"{number}", "ops", "other"), tenant="other")
        loop, begun = recording_loop(post)
        for _ in range(20):
            start_all(loop)
            seconds[0] += 0.1
        assert Counter(begun) == {("default", "ops"): 20, ("other", "ops"): 20}

    def test_tenants_with_ids_of_an_earlier_version_hide_no_other_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post = PostOffice()
        monkeypatch.setattr(notification_loop, "MAX_DUE", 13)
        for tenant in range(12):
            for number in range(30):
                post.add(entry_id("r1", tenant, number), tenant=f"t{tenant}")
            post.clock.now += 1
        post.add(id_of("last", "ops", "other"), tenant="other")
        loop, begun = recording_loop(post)
        for _ in range(3):
            start_all(loop)
        assert ("other", "ops") in begun

    def test_a_few_ids_of_an_earlier_version_hide_no_other_channel(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post = PostOffice()
        monkeypatch.setattr(notification_loop, "MAX_DUE", 7)
        for number in range(10):
            post.add(id_of(f"{number}", "ops"))
        for name, channel in (
            (entry_id("r1"), "ops"),
            *((id_of("n", c), c) for c in ("a", "b", "c", "d", "e")),
        ):
            post.clock.now += 1
            post.add(name, channel)
        loop, begun = recording_loop(post)
        for _ in range(2):
            start_all(loop)
        assert {channel for _, channel in begun} == {"ops", "a", "b", "c", "d", "e"}

    def test_a_channel_with_the_lane_of_another_tenant_does_not_hide_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post = PostOffice()
        monkeypatch.setattr(notification_loop, "MAX_DUE", 5)
        monkeypatch.setattr(notification_loop, "lane_of", lambda *_: "0" * 8)
        for number in range(20):
            post.add(f"{number:016}{'0' * 8}")
        post.clock.now += 1
        post.add("f" * 16 + "0" * 8, tenant="other")
        loop, begun = recording_loop(post)
        start_all(loop)
        assert sorted(begun) == [("default", "ops"), ("other", "ops")]

    def test_due_notifications_are_read_twice_a_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Else each end of a delivery read the keys of all that are due."""
        post, seconds, reads = PostOffice(), [0.0], list[float]()
        replace_time(monkeypatch, seconds)
        for number in range(100):
            post.add(id_of(f"{number}", "ops"))
        post.clock.now += 1
        for name in ("a", "a", "a", "b"):
            post.add(id_of(f"{name}{post.clock.now}", name), name)
            post.clock.now += 1
        find = post.store.outbox.due_notifications

        def count_reads(search: NotificationSearch) -> list[OutboxEntry]:
            reads.append(seconds[0])
            return find(search)  # type: ignore[no-any-return]

        post.store.outbox.due_notifications = count_reads
        loop, begun = recording_loop(post)
        for _ in range(40):
            start_all(loop)
            seconds[0] += 0.1
        counts = Counter(begun)
        assert (counts["default", "a"], counts["default", "b"]) == (3, 1)
        assert counts["default", "ops"] >= 40
        assert sorted(begun[:3]) == [("default", name) for name in ("a", "b", "ops")]
        # Each second, one finds channels, and one leaves `ops` out.
        assert len(reads) <= 8

    def test_a_channel_whose_known_notifications_have_begun_is_found_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post = PostOffice()
        replace_time(monkeypatch, [0.0])
        for name in ("ops", "audit"):
            for number in range(50):
                post.add(id_of(f"{number}", name), name)
            post.clock.now += 1
        loop, begun = recording_loop(post)
        for _ in range(30):
            start_all(loop)
        assert Counter(begun) == {("default", "ops"): 30, ("default", "audit"): 30}

    def test_a_slow_attempt_leaves_its_place_after_a_second_on_each_store(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post, waited = PostOffice(), []
        loop = NotificationLoop(post.courier, threading.Event())
        monkeypatch.setattr(loop, "_poll_seconds", notification_loop.TABLE_POLL_SECONDS)
        seconds = [0.0]

        def wait(slice_seconds: float) -> bool:
            seconds[0] += slice_seconds
            waited.append(slice_seconds)
            return False

        replace_time(monkeypatch, seconds)
        monkeypatch.setattr(loop._ended, "wait", wait)
        loop._wait(is_sending=True)
        assert sum(waited) == pytest.approx(notification_loop.POLL_SECONDS)

    def test_a_tenant_has_at_most_half_of_the_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        post = PostOffice()
        for number in range(8):
            post.add_channel("http://127.0.0.1:1", f"c{number}")
            post.add(id_of(f"n{number}", f"c{number}"), f"c{number}")
        post.add_channel("http://127.0.0.1:1", tenant="other")
        post.add(id_of("o1", "ops", "other"), tenant="other")
        begun, is_released = [], threading.Event()

        class Waiting(Courier):
            """A courier that waits."""

            def deliver(self, entry: OutboxEntry, now: float) -> bool:
                begun.append(entry.tenant)
                return is_released.wait(10)

        monkeypatch.setattr(notification_loop, "MAX_DUE", 5)
        loop = NotificationLoop(Waiting(post.store, post.courier.sender), threading.Event())
        with ThreadPoolExecutor(8) as senders:
            assert loop.start_due(senders) == 4 + 1
            assert loop.start_due(senders) == 0
            is_released.set()
        assert sorted(begun) == ["default"] * 4 + ["other"]

    def test_a_failure_of_the_store_pauses_its_channel_for_longer_each_time(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        post, seconds, tries = PostOffice(), [0.0], []
        replace_time(monkeypatch, seconds)
        monkeypatch.setattr(channel_attempts, "MAX_REMEMBERED", 2)
        for name in ("broken", "whole"):
            post.add_channel("http://127.0.0.1:1", name)

        class Failing(Courier):
            """A courier whose store fails for one channel."""

            def deliver(self, entry: OutboxEntry, now: float) -> bool:
                tries.append((entry.id, seconds[0]))
                if entry.record["channel"] == "broken" and seconds[0] < 200:
                    raise StoreAwayError("no answer")
                return self.store.outbox.change(entry, None)

        loop = NotificationLoop(Failing(post.store, post.courier.sender), threading.Event())

        def start_due() -> int:
            with ThreadPoolExecutor(2) as senders:
                return loop.start_due(senders)

        post.add("b1", "broken")
        assert start_due() == 1
        post.add("w1", "whole")
        assert start_due() == 1
        while seconds[0] < 300:
            seconds[0] += 1
            start_due()
        assert [second for id, second in tries if id == "b1"] == [0, 2, 6, 14, 30, 62, 122, 182, 242]
        post.add("b2", "broken")
        assert start_due() == 1

    def test_an_unexpected_failure_delays_its_notification_only(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        post = PostOffice()
        post.add_channel("http://127.0.0.1:1")
        post.add(waits_for=None)
        loop = NotificationLoop(post.courier, threading.Event())
        with ThreadPoolExecutor(1) as senders:
            assert loop.start_due(senders) == 1
        assert post.due_in() == LEASE_SECONDS
        assert "could not be sent" in caplog.text


def test_an_invocation_delivers_with_the_settings_of_its_process() -> None:
    post = PostOffice()
    entry = post.add()
    assert perform_entry(post.store, entry, START)
    assert delivery_state(post.existing()) == "undelivered"


def test_a_process_takes_its_settings_from_the_environment() -> None:
    environ = {"NOETL_ALLOW_NETWORKS": "127.0.0.0/8", "NOETL_PUBLIC_URL": "https://noetl.example.com"}
    courier = make_courier(MemoryStore(), environ)
    assert (courier.sender.networks, courier.public_url) == (LOOPBACK, "https://noetl.example.com")


def test_a_worker_reports_late_runs_and_ends_of_runs() -> None:
    store: Any = MemoryStore()
    plan = compile_text("""
        name: import
        notify: {failed: ops, cancelled: ops, late: 1s}
        steps:
          - name: pause
            run: [{action: wait, seconds: 600}]
    """)
    failing = compile_text("""
        name: load
        notify: {failed: ops}
        steps: [{name: load, run: [{action: fail, message: no rows}]}]
    """)
    store.plans.save(plan)
    store.plans.save(failing)
    with receiver() as server:
        assert store.channels.put(Channel("default", "ops", "webhook", server.url(), 1.0), None)
        worker = Worker(store, WorkerSettings(Capabilities(networks=LOOPBACK), threads=1))
        worker.start()
        try:
            run = store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=store.clock()))
            wait_for_requests(server, 1)
            store.runs.stop(run.id, RunStatus.CANCELLED, store.clock())
            wait_for_requests(server, 2)
            store.runs.create(*new_run(failing.header, failing.hash, StartRequest(), now=store.clock()))
            wait_for_requests(server, 3)
        finally:
            worker.stop()
    bodies = [json.loads(request.body) for request in server.requests]
    assert [body["type"] for body in bodies] == ["run.late", "run.cancelled", "run.failed"]
    assert bodies[0]["data"]["status"] in ("queued", "running", "waiting")
    assert bodies[2]["data"]["error"]["message"] == "no rows"


def wait_for_requests(server: StubServer, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(server.requests) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
