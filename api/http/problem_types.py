"""The types of problem documents: the status of each, an example of its sentence, and its headers.

A route declares which types it may answer with. `/openapi.json` lists them for each call and status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

CONFLICT = 409
"""Status of a refusal by the state of a run or of the registry, if its type has no other."""


class ProblemType(NamedTuple):
    """A type of problem documents. `detail` is an example. `title` is None if it follows from the name."""

    status: int
    detail: str
    headers: tuple[str, ...] = ()
    title: str | None = None

    def title_of(self, slug: str) -> str:
        """Return the title of the documents of this type, whose name is `slug`."""
        return self.title or slug.replace("-", " ").capitalize()


_RETRY = ("Retry-After",)
_CHALLENGE = ("WWW-Authenticate",)

PROBLEM_TYPES: Mapping[str, ProblemType] = {
    "invalid-request": ProblemType(400, "Unknown query parameter `statu`; did you mean `status`?"),
    "malformed-json": ProblemType(
        400, "The body is not JSON: Expecting value, line 1, column 1.", title="Malformed JSON"
    ),
    "malformed-form": ProblemType(400, "The form has the field `note` twice."),
    "invalid-cursor": ProblemType(400, "the cursor does not belong to this list"),
    "ambiguous-selection": ProblemType(
        400, "The request names runs by `ids` in the body, or by a filter in the query; it has both."
    ),
    "invalid-interval": ProblemType(400, "2,880 intervals; a histogram has 1 to 500 intervals of `step`"),
    "unauthenticated": ProblemType(401, "The API key is unknown or revoked.", _CHALLENGE),
    "unsigned": ProblemType(401, "The signature of the request is missing or wrong.", _CHALLENGE),
    "insufficient-scope": ProblemType(
        403, "The credentials do not have the required scope `run`.", _CHALLENGE
    ),
    "loopback-only": ProblemType(
        403,
        "The request comes from another machine. No authentication is configured, so only clients on this"
        " machine are served.",
        title="Only this machine is served",
    ),
    "unsigned-webhook": ProblemType(
        403,
        "The webhook has no authentication, and the operator does not allow that"
        " (NOETL_ALLOW_UNSIGNED_WEBHOOKS).",
        title="Webhook without authentication",
    ),
    "not-found": ProblemType(404, "unknown run `7c0b1f2ad1f04b0d9f1e2a3c`"),
    "unknown-token": ProblemType(404, "no step has ever waited for this answer"),
    "wrong-method": ProblemType(405, "PUT is not allowed at this webhook.", ("Allow",)),
    "not-acceptable": ProblemType(
        406, "The header Accept allows none of the media types of this response: application/json."
    ),
    "slow-body": ProblemType(408, "The body of the request must arrive within 25 s."),
    "ambiguous-question": ProblemType(
        CONFLICT, "the step asks 2 questions; name one by its position: `run.0`, `run.1`"
    ),
    "answered-otherwise": ProblemType(
        CONFLICT, 'another answer arrived before, at 2026-01-31T09:30:00Z: {"approved":true}'
    ),
    "busy": ProblemType(
        CONFLICT, "run 7c0b1f2ad1f04b0d9f1e2a3c goes on too fast to be switched; pause it, and try again"
    ),
    "cannot-continue": ProblemType(
        CONFLICT,
        "run 7c0b1f2ad1f04b0d9f1e2a3c cannot continue in this version: NC105: step `a` would be done twice"
        " (line 7)",
    ),
    "child-run": ProblemType(
        CONFLICT,
        "run 7c0b1f2ad1f04b0d9f1e2a3c was started by run 3fa90c1be2d84f6a8b7c5d10, which is kept; delete run"
        " 3fa90c1be2d84f6a8b7c5d10 with it",
    ),
    "ending": ProblemType(
        CONFLICT, "run 7c0b1f2ad1f04b0d9f1e2a3c is already ending, so it cannot be paused; wait for its end"
    ),
    "finished": ProblemType(CONFLICT, "run 7c0b1f2ad1f04b0d9f1e2a3c has already ended: succeeded"),
    "local-run": ProblemType(
        CONFLICT, "The run was started from a local file; use `noetl runs cancel 7c0b1f2ad1f04b0d9f1e2a3c`."
    ),
    "no-past": ProblemType(
        CONFLICT,
        "run 7c0b1f2ad1f04b0d9f1e2a3c was performed by an earlier version of NoETL, in another order; its"
        " earlier states cannot be shown",
    ),
    "not-ended": ProblemType(
        CONFLICT, "run 7c0b1f2ad1f04b0d9f1e2a3c has not ended, so no run can start from it"
    ),
    "not-skippable": ProblemType(
        CONFLICT,
        "step `a` of run 7c0b1f2ad1f04b0d9f1e2a3c has neither failed nor stopped before its end; only such"
        " steps can be skipped",
    ),
    "nothing-left": ProblemType(
        CONFLICT,
        "run 7c0b1f2ad1f04b0d9f1e2a3c had no branch left at this event, so nothing would be done; start from"
        " an earlier event",
    ),
    "not-resumable": ProblemType(
        CONFLICT, "run 7c0b1f2ad1f04b0d9f1e2a3c has succeeded; there is nothing to resume"
    ),
    "paused": ProblemType(CONFLICT, "run 7c0b1f2ad1f04b0d9f1e2a3c is paused; unpause it, and it continues"),
    "other-playbook": ProblemType(
        CONFLICT,
        "run 7c0b1f2ad1f04b0d9f1e2a3c is one of playbook `greet`, not of `meet`; give both the same `name`",
    ),
    "payload-lost": ProblemType(
        CONFLICT, "the earlier answer, with which this one is compared, is lost: object runs/7c0b1f2a/0a1b"
    ),
    "playbook-in-use": ProblemType(CONFLICT, "playbook `greet` has runs that have not ended"),
    "same-plan": ProblemType(
        CONFLICT,
        "run 7c0b1f2ad1f04b0d9f1e2a3c has this version of playbook `greet` already; resume it without"
        " `playbook`",
    ),
    "superseded-plan": ProblemType(CONFLICT, "the playbook was compiled by an earlier version of NoETL"),
    "playbook-changed": ProblemType(CONFLICT, "the newest version of `greet` is `15`, and not `14` any more"),
    "backfill-changed": ProblemType(
        CONFLICT, "backfill 7c0b1f2ad1f04b0d9f1e2a3c was changed meanwhile: try again"
    ),
    "backfill-ended": ProblemType(
        CONFLICT, "backfill 7c0b1f2ad1f04b0d9f1e2a3c has succeeded; it cannot be paused"
    ),
    "backfill-open": ProblemType(
        CONFLICT,
        "backfill 7c0b1f2ad1f04b0d9f1e2a3c has not ended, so its failed runs cannot be retried",
    ),
    "channel-changed": ProblemType(CONFLICT, "channel `ops` was changed meanwhile: try again"),
    "notification-changed": ProblemType(
        CONFLICT, "notification `5f1c7c0b1f2ad1f04b0d9f1e` was changed meanwhile: try again"
    ),
    "too-many-limits": ProblemType(CONFLICT, "there are 100 limits; remove one"),
    "limit-in-use": ProblemType(CONFLICT, "limit `api` is in use: 2 held, 5 waiting"),
    "shared-limit": ProblemType(
        CONFLICT, "limit `api` is shared by all tenants; change it in the store, with --shared"
    ),
    "too-many-channels": ProblemType(CONFLICT, "there are 50 channels; remove one"),
    "trigger-changed": ProblemType(CONFLICT, "trigger `nightly` of `greet` was changed meanwhile: try again"),
    "path-taken": ProblemType(CONFLICT, "path `shop/paid` belongs to trigger `paid` of playbook `shop`"),
    "alias-exists": ProblemType(CONFLICT, "`stable` is an alias of `greet`, and no version"),
    "alias-in-use": ProblemType(
        CONFLICT, "`live` is an alias of version `1` of `greet`; move or remove it first"
    ),
    "too-many-aliases": ProblemType(CONFLICT, "`greet` has 50 aliases, and no more are possible"),
    "version-exists": ProblemType(CONFLICT, "version `1` of `greet` is registered with another text"),
    "closed": ProblemType(410, "the step does not wait for an answer any more"),
    "answer-too-large": ProblemType(
        413, "The response has 7,000,000 bytes; the gateway takes at most 6,291,556."
    ),
    "too-large": ProblemType(413, "The body must have at most 1,048,576 bytes."),
    "unsupported-media-type": ProblemType(
        415, "The body must be application/json, in UTF-8 and not compressed.", ("Accept-Post",)
    ),
    "conflicting-members": ProblemType(422, "`set` needs a `playbook`."),
    "graph-too-large": ProblemType(
        422, "The graph has more than 500 edges. Request it with `format=mermaid` or `format=json`."
    ),
    "idempotency-key-reused": ProblemType(
        422, "the idempotency key was used for another request; a new request needs a new key"
    ),
    "incomplete-result": ProblemType(
        422, "the result that is given for step `load` has no `page.rows`, which `set` reads (line 7)"
    ),
    "inside-region": ProblemType(422, "step `b` is on one of several branches that join at `c`"),
    "invalid-backfill": ProblemType(422, "`to` must not be in the future: it is 2026-01-31T09:30:00Z"),
    "invalid-answer": ProblemType(422, "missing field `approved`"),
    "invalid-body": ProblemType(422, "The body has no `playbook`."),
    "invalid-input": ProblemType(422, "input `count` must be an integer"),
    "invalid-name": ProblemType(
        422, "the name of a registered playbook must be 1 to 100 printable characters"
    ),
    "invalid-playbook": ProblemType(422, "The playbook has 1 error; nothing was started or stored."),
    "invalid-text": ProblemType(422, "the store cannot hold the character U+0000"),
    "no-loop": ProblemType(422, "step `hello` has no loop"),
    "too-many-tags": ProblemType(422, "the run would have 51 tags; a run has at most 50"),
    "too-much-work": ProblemType(422, "The compilation of the playbook takes more than 10 s."),
    "unknown-event": ProblemType(
        422, "the run has no event 99; its events are 1 to 42 (1-0-6c09ff9d to 40-1-6c09ff9d)"
    ),
    "unknown-step": ProblemType(422, "unknown step `helo`; did you mean `hello`?"),
    "invalid-limit": ProblemType(422, "the name of a limit must be 1 to 64 letters, digits, `_`, `-` or `.`"),
    "invalid-channel": ProblemType(422, "the URL of a channel must begin with http:// or https://"),
    "not-scheduled": ProblemType(
        422, "trigger `nightly` does not fire at 2026-01-31T09:30:00Z; then it fires at 2026-02-01T02:30:00Z"
    ),
    "quota-exceeded": ProblemType(
        429, "the tenant has 1,000 branches that are due, run or wait (NOETL_MAX_BRANCHES)", _RETRY
    ),
    "tenant-busy": ProblemType(429, "32 jobs of this tenant wait already.", _RETRY),
    "too-many-requests": ProblemType(
        429,
        "Too many requests: the limit `key` is 600 in a minute. Try again in 3 s.",
        (*_RETRY, "RateLimit", "RateLimit-Policy"),
    ),
    "run-damaged": ProblemType(
        500,
        "The run is damaged, and waits until its store is repaired. The store has no plan 5f0c, or a part of"
        " it is missing. It can be deleted, although it has not ended.",
    ),
    "internal-error": ProblemType(
        500, "Internal error. The service log has the details under this reference."
    ),
    "run-failed": ProblemType(502, "The run 7c0b1f2ad1f04b0d9f1e2a3c ended as failed."),
    "not-supported": ProblemType(501, "Graphviz is not installed."),
    "issuer-unavailable": ProblemType(503, "The keys of the token issuer cannot be read.", _RETRY),
    "not-set-up": ProblemType(503, "The service is not configured. The service log names the setting."),
    "trigger-paused": ProblemType(503, "The webhook is paused.", _RETRY),
    "webhook-not-set-up": ProblemType(
        503, "The webhook is not set up. The service log says what is missing.", _RETRY
    ),
    "service-busy": ProblemType(503, "64 jobs wait already.", _RETRY),
    "store-unavailable": ProblemType(503, "The store cannot be reached.", _RETRY),
    "too-many-answers": ProblemType(
        503, "This tenant has 134,217,728 bytes of answers that were not read. Read them first.", _RETRY
    ),
    "too-many-bodies": ProblemType(503, "512 unfinished bodies are open in this process.", _RETRY),
    "too-many-connections": ProblemType(
        503, "The service has as many requests as it accepts. Try again later.", _RETRY
    ),
    "too-many-streams": ProblemType(503, "1000 event streams are open in this process.", _RETRY),
}
"""The types by their names. The member `type` of a document is `urn:noetl:problem:` with the name."""


def problem_type(slug: str) -> ProblemType:
    """Return the type of a name. A name that is not known here is a conflict.

    >>> problem_type("unknown-step").status, problem_type("key-exists").status
    (422, 409)
    """
    return PROBLEM_TYPES.get(slug) or ProblemType(CONFLICT, "")
