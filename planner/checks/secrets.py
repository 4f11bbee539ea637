"""Literal secrets in playbooks (NP507): which keys and which texts look like one."""

from __future__ import annotations

import re

from noetl.planner.templates.template import has_template

_SECRET_KEYS = re.compile(
    r"(.*[_-])?(password|passwd|passphrase|secret|api[_-]?key|apikey|access[_-]?key|secret[_-]?key|private[_-]?key"
    r"|auth[_-]?token|access[_-]?token|bearer)|authorization|x-api-key|x-auth-token|pgpassword",
    re.IGNORECASE,
)
_SECRET_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{22,}\b|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[\w-]{10,}|\bsk-[\w-]{20,}|\bsk_live_\w{16,}|\bAIza[\w-]{35}\b"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_ADDRESS_PASSWORD = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/?#:@]*:(?P<secret>[^\s/?#@]+)@", re.IGNORECASE)
_WORD_PASSWORD = re.compile(r"(?:^|\s)password\s*=\s*(?P<secret>'[^']+'|\S+)", re.IGNORECASE)
_SCHEME_WORD = re.compile(r"(?:bearer|basic|token)\s+", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"[\W_x]*|<.*>|\[.*\]|\$.*|.*(?:change[_ -]?me|example|placeholder|dummy|redacted|your[_ -]?|todo|foo|\bmy[_ -]).*"
    r"|(?:fake|test|demo)?[_ -]?(?:password|passwd|pass|pw|secret|token|key|postgres|admin|root|user|guest|test|demo|none|null"
    r"|abc|hunter2)\d*",
    re.IGNORECASE,
)


def find_secret(key: str, text: str, *, within: str) -> tuple[int, int] | None:
    """Where in a text under a key a secret is written out, or None."""
    if found := _SECRET_SHAPES.search(text):
        return found.span()
    found = _ADDRESS_PASSWORD.search(text) or (
        _WORD_PASSWORD.search(text) if within == "connection" else None
    )
    if found and not has_template(found["secret"]) and not _PLACEHOLDER.fullmatch(found["secret"].strip("'")):
        return found.span("secret")
    if has_template(text) or not _SECRET_KEYS.fullmatch(key):
        return None
    scheme = _SCHEME_WORD.match(text)
    start = scheme.end() if scheme else 0
    secret = text[start:]
    if len(secret) < 6 or " " in secret.strip() or _PLACEHOLDER.fullmatch(secret):
        return None
    return start, len(text)
