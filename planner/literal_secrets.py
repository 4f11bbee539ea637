"""Detection of literal secrets: texts that look like a password, token or key."""

from __future__ import annotations

import re

from noetl.planner.templates.template import has_template

_SECRET_KEYS = re.compile(
    r"(.*[_-])?(password|passwd|passphrase|secret|api[_-]?key|apikey|access[_-]?key|secret[_-]?key"
    r"|private[_-]?key|auth[_-]?token|access[_-]?token|bearer)"
    r"|authorization|x-api-key|x-auth-token|pgpassword",
    re.IGNORECASE,
)
_SECRET_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{22,}\b|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[\w-]{10,}|\bsk-[\w-]{20,}|\bsk_live_\w{16,}|\bAIza[\w-]{35}\b"
    r"|(?<![\w-])eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_URL_PASSWORD = re.compile(r"[a-z0-9+.-]://[^\s/?#:@]*:(?P<secret>[^\s/?#@]+)@", re.IGNORECASE)
"""The password of a URL. Only the end of its scheme is read, as a scheme may be searched from each letter."""
_DSN_PASSWORD = re.compile(r"(?:^|\s)password\s*=\s*(?P<secret>'[^']+'|\S+)", re.IGNORECASE)
_AUTHORIZATION_SCHEME = re.compile(r"(?:bearer|basic|token)\s+", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"[\W_x]*|<.*>|\[.*\]|\$.*"
    r"|.*(?:change[_ -]?me|example|placeholder|dummy|redacted|your[_ -]?|todo|foo|\bmy[_ -]).*"
    r"|(?:fake|test|demo)?[_ -]?(?:password|passwd|pass|pw|secret|token|key|postgres|admin|root|user|guest"
    r"|test|demo|none|null|abc|hunter2)\d*",
    re.IGNORECASE,
)
_MIN_LENGTH = 6


def find_literal_secret(key: str, text: str, *, is_connection_string: bool = False) -> tuple[int, int] | None:
    """Return the start and end of a literal secret in a text, or None.

    `key` is the key of the text. A connection string may contain a password as a `key=value` word.

    >>> find_literal_secret("url", "https://ann:Tr0ub4dor@db/x")
    (12, 21)
    >>> find_literal_secret("password", "changeme")
    """
    if match := _SECRET_SHAPES.search(text):
        return match.span()
    match = _URL_PASSWORD.search(text) or (_DSN_PASSWORD.search(text) if is_connection_string else None)
    if match and not has_template(match["secret"]) and not _PLACEHOLDER.fullmatch(match["secret"].strip("'")):
        return match.span("secret")
    if has_template(text) or not _SECRET_KEYS.fullmatch(key):
        return None
    scheme = _AUTHORIZATION_SCHEME.match(text)
    start = scheme.end() if scheme else 0
    secret = text[start:]
    if len(secret) < _MIN_LENGTH or " " in secret.strip() or _PLACEHOLDER.fullmatch(secret):
        return None
    return start, len(text)
