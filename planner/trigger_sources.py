"""The sources of triggers that do not fire at times: requests from outside, and ends of runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from noetl.planner.frozen import frozen

WebhookScheme = Literal["github", "stripe", "standard", "hmac", "api_key", "none"]

EndedStatus = Literal["succeeded", "completed_with_errors", "failed", "cancelled", "timed_out", "skipped"]

MAX_WEBHOOK_BYTES = 5 * 1024 * 1024
MAX_WEBHOOK_WAIT_SECONDS = 25.0

DEFAULT_TOLERANCE_SECONDS = 300.0
"""How far a signed time may be from that of the store, if a playbook says nothing else."""

_CREDENTIALS = re.compile(
    r"authorization|cookie|token|secret|signature|password|passwd|api[_-]?key|credential"
    r"|jwt|assertion|oidc-data|x-auth-key"
)
"""Parts of the names of headers with credentials, also of those that proxies add: `x-amzn-oidc-data`."""


def is_credential_header(name: str) -> bool:
    """Return whether templates do not see a header, as its value may be a credential or a signature.

    >>> is_credential_header("x-hub-signature-256"), is_credential_header("x-github-event")
    (True, False)
    """
    return bool(_CREDENTIALS.search(name))


@frozen
class WebhookAuth:
    """The proof that a request comes from the expected sender.

    Attributes:
        secrets: the names of the secrets, one of which must have signed the request.
        header: the header with the signature; only for `hmac`.
        prefix: text before the signature in that header.
        algorithm: the hash function, such as `sha256`.
        encoding: the encoding of the signature.
        tolerance_seconds: how far a signed time may be from that of the store, both ways.
    """

    scheme: WebhookScheme
    secrets: tuple[str, ...] = ()
    header: str = ""
    prefix: str = ""
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    tolerance_seconds: float = DEFAULT_TOLERANCE_SECONDS

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__match_args__}
        return fields | {"secrets": list(self.secrets)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WebhookAuth:
        return cls(**{**data, "secrets": tuple(data["secrets"])})


@frozen
class Webhook:
    """Requests to `/hooks/{tenant}/{path}`, each of which starts a run.

    Attributes:
        path: the address after the tenant, without a slash at its begin and its end.
        method: the only accepted method.
        max_bytes: the greatest size of a body.
        answer: `accepted`, if the sender gets 202 at once, or `result`, if it waits for the end of the run.
        wait_seconds: how long it waits. After that it gets 202.
        remember_seconds: for how long a repeated request gets the answer of the first one.
    """

    path: str
    auth: WebhookAuth
    method: Literal["POST", "PUT"] = "POST"
    max_bytes: int = 1024 * 1024
    answer: Literal["accepted", "result"] = "accepted"
    wait_seconds: float = 10.0
    remember_seconds: float = 7 * 86_400.0

    @property
    def repeat_seconds(self) -> float:
        """The time without a second run of a repeated request: at least while its signed time is accepted.

        >>> Webhook("paid", WebhookAuth("standard"), remember_seconds=60.0).repeat_seconds
        600.0
        """
        if self.auth.scheme not in ("stripe", "standard"):
            return self.remember_seconds
        # The signed time may be early or late.
        return max(self.remember_seconds, 2 * self.auth.tolerance_seconds)

    @property
    def timing(self) -> tuple[Any, ...]:
        """The values that decide when it fires, which are not times."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__match_args__}
        return fields | {"auth": self.auth.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Webhook:
        return cls(**{**data, "auth": WebhookAuth.from_json(data["auth"])})


@frozen
class RunEnd:
    """Ends of runs of a playbook with one of some statuses, each of which starts a run."""

    playbook: str
    statuses: tuple[EndedStatus, ...] = ("succeeded",)

    @property
    def timing(self) -> tuple[Any, ...]:
        """The values that decide when it fires, which are not times."""
        return ()

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        return {"playbook": self.playbook, "statuses": list(self.statuses)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunEnd:
        return cls(data["playbook"], tuple(data["statuses"]))
