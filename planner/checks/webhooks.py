"""Checks of webhooks: addresses, keys and senders (NP010 to NP012, NP805, NP812 and NP813)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.diagnostics.wording import abbreviate, as_code, join_words
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import WebhookAuthDeclaration, WebhookDeclaration
from noetl.planner.syntax.names import MAX_WEBHOOK_PATH_LENGTH, find_secret_name, is_webhook_path

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")

_KEYS: Mapping[str, Sequence[str]] = {
    "github": ("secret",),
    "stripe": ("secret", "tolerance"),
    "standard": ("secret", "tolerance"),
    "hmac": ("secret", "header", "prefix", "algorithm", "encoding"),
    "api_key": (),
    "none": (),
}
"""The keys of `auth` besides `scheme`, by scheme."""

_REQUIRED_KEYS = ("secret", "header")
"""The keys of a scheme that must be written."""


def check_webhooks(program: Program) -> None:
    """Report webhooks whose address is illegal or taken, or that cannot recognise their senders."""
    first: dict[str, Span] = {}
    for trigger in program.playbook.triggers:
        if isinstance(trigger, WebhookDeclaration):
            _check_address(program, trigger, first)
            _check_keys(program, trigger.auth)
            _check_secrets(program, trigger.auth)
            _check_header(program, trigger.auth)
            _check_wait(program, trigger)
            if trigger.auth.scheme == "none":
                message = f"webhook `{abbreviate(trigger.name)}` accepts requests of any sender"
                hint = "choose a scheme such as `github`, `stripe`, `standard`, `hmac` or `api_key`"
                program.report("NP812", message, (*trigger.auth.path, "scheme"), hint)


def _check_address(program: Program, trigger: WebhookDeclaration, first: dict[str, Span]) -> None:
    path = (*trigger.path, "path")
    address = trigger.address
    if not is_webhook_path(address):
        message = (
            f"path of a webhook must be at most {MAX_WEBHOOK_PATH_LENGTH} letters, digits, `_`, `-` or `.`, "
            "in segments between `/`"
        )
        intended = "/".join(filter(None, re.sub("[^A-Za-z0-9_./-]+", "-", address).split("/")))
        hint = f"write `{intended}`" if is_webhook_path(intended) else "write a path such as `shop/paid`"
        program.report("NP813", message, path, hint)
    elif address in first:
        labels = [Label(first[address], "first use")]
        program.report("NP813", f"duplicate path `{abbreviate(address)}`", path, "change one of them", labels)
    first.setdefault(address, program.document.span(path))


def _check_wait(program: Program, trigger: WebhookDeclaration) -> None:
    """Report how long the sender waits, if it gets the answer at once."""
    if "wait" not in trigger.model_fields_set or trigger.answer == "result":
        return
    if _is_wrong(program, trigger, "answer"):
        return
    message = "`wait` has no effect without `answer: result`"
    hint = "write `answer: result`, or remove it: the sender gets 202 at once"
    program.report("NP805", message, (*trigger.path, "wait"), hint, key=True)


def _check_keys(program: Program, auth: WebhookAuthDeclaration) -> None:
    """Report keys that the scheme does not have, and those that it requires."""
    allowed = _KEYS[auth.scheme]
    for name in WebhookAuthDeclaration.model_fields:
        if name == "scheme" or name not in auth.model_fields_set or name in allowed:
            continue
        schemes = [scheme for scheme, keys in _KEYS.items() if name in keys]
        message = f"scheme `{auth.scheme}` has no `{name}`"
        hint = f"remove it: it belongs to {join_words(as_code(schemes), 'and')}"
        program.report("NP010", message, (*auth.path, name), hint, key=True)
    for name in _REQUIRED_KEYS:
        if name in allowed and not getattr(auth, name) and not _is_wrong(program, auth, name):
            message = f"scheme `{auth.scheme}` needs `{name}`"
            example = 'write `secret: "{{ secrets.NAME }}"`'
            hint = example if name == "secret" else "write `header: NAME`"
            program.report("NP011", message, (*auth.path, "scheme"), hint)


def _is_wrong(program: Program, declared: WebhookAuthDeclaration | WebhookDeclaration, name: str) -> bool:
    """Return whether a key is in the text with a wrong value, which has a diagnostic of its own."""
    return name in program.document.value_at(declared.path) and name not in declared.model_fields_set


def _check_secrets(program: Program, auth: WebhookAuthDeclaration) -> None:
    if "secret" not in _KEYS[auth.scheme]:
        return
    is_list = isinstance(_written_secret(program, auth), list)
    for index, text in enumerate(auth.secret):
        if find_secret_name(text) is None:
            # The text may be a secret, so no message contains it.
            path = (*auth.path, "secret", index) if is_list else (*auth.path, "secret")
            message = "secret of a webhook must be exactly one `{{ secrets.NAME }}`"
            hint = 'store it as a secret, and write `secret: "{{ secrets.NAME }}"`'
            program.report("NP012", message, path, hint)


def _written_secret(program: Program, auth: WebhookAuthDeclaration) -> object:
    return program.document.value_at(auth.path).get("secret")


def _check_header(program: Program, auth: WebhookAuthDeclaration) -> None:
    if auth.scheme != "hmac" or not auth.header:
        return
    if not _HEADER.fullmatch(auth.header):
        message = "`header` must be the name of a header, such as `X-Signature`"
        program.report("NP012", message, (*auth.path, "header"))
