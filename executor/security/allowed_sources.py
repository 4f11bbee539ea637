"""Sources that triggers may read: the folders, queues and events that an operator allows each tenant.

A tenant may write the name of any folder, queue or bucket into a playbook. A trigger that reads it would give
its files, messages or events to the runs of that tenant. So a service reads only the sources that its
operator has listed for the tenant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import PurePosixPath
from typing import Literal

from noetl.executor.errors import SettingError
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.security.service_resources import EVENT_QUEUE_SETTING, spell_queue
from noetl.planner.frozen import frozen
from noetl.planner.plan import TriggerSource
from noetl.planner.polled_sources import BucketObjects, BusEvents, Folder, Queue

SOURCES_SETTING = "NOETL_TRIGGER_SOURCES"
"""The setting that lists the sources of each tenant."""

SourceKind = Literal["folder", "sqs", "table", "s3", "event"]

EVENT_KINDS: tuple[SourceKind, ...] = ("s3", "event")
"""The kinds of sources whose events arrive in the queue of events."""

_KINDS_WITH_CASE: tuple[SourceKind, ...] = ("sqs", "table", "event")
"""The kinds of sources whose names differ if only their case does."""

_RULE = re.compile(r"(?:(?P<tenant>[^/:\s]+)/)?(?P<kind>folder|sqs|table|s3|event):(?P<name>\S.*)")
_ARN = re.compile(r"arn:[a-z-]+:sqs:([a-z0-9-]+):(\d+):([A-Za-z0-9_.-]+)")
_URL = re.compile(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/(\d+)/([A-Za-z0-9_.-]+)")


def name_queue(address: str) -> str:
    """Return what a URL and an ARN of a queue of SQS have in common. Another text is returned as it is.

    >>> name_queue("https://sqs.eu-central-1.amazonaws.com/123456789012/orders")
    'eu-central-1 123456789012 orders'
    >>> name_queue("arn:aws:sqs:eu-central-1:123456789012:orders")
    'eu-central-1 123456789012 orders'
    """
    found = _ARN.fullmatch(address) or _URL.fullmatch(address)
    return address if found is None else " ".join(found.groups())


@frozen
class AllowedSources:
    """The sources of each tenant: `rules` maps (tenant, kind) to names of sources.

    `event_queue` is the URL of the queue to which EventBridge sends events, or None.
    """

    rules: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    event_queue: str | None = None

    def tenants(self, kinds: Iterable[SourceKind]) -> list[str]:
        """Return the tenants that may read sources of some kinds, in the order of their names."""
        wanted = set(kinds)
        return sorted({tenant for tenant, kind in self.rules if kind in wanted})

    def allows_folder(self, tenant: str, folder: str) -> bool:
        """Return whether a tenant may read a folder: one that is listed, or one below it."""
        return not _folders_above(PurePosixPath(folder)).isdisjoint(self.rules.get((tenant, "folder"), ()))

    def allows_name(self, tenant: str, kind: SourceKind, name: str) -> bool:
        """Return whether a tenant may read a queue of SQS, a table, a bucket, or the events of a source."""
        return name_queue(name) in map(name_queue, self.rules.get((tenant, kind), ()))

    def belongs_to_others(self, tenant: str, kind: SourceKind, name: str) -> bool:
        """Return whether other tenants may read a source, and `tenant` may not.

        It is a queue, or the events of a bucket or of a source.
        """
        spelling = _spell(kind, name)
        tenants = {
            owner
            for (owner, rule_kind), names in self.rules.items()
            if rule_kind == kind and spelling in (_spell(kind, rule) for rule in names)
        }
        return bool(tenants) and tenant not in tenants

    def path_belongs_to_others(self, tenant: str, path: PurePosixPath) -> bool:
        """Return whether a path is in a folder that other tenants may read, and `tenant` may not.

        So is a path at which such a folder, or one above it, would be created. The case of a path makes no
        difference, since some file systems ignore it. The rules of `tenant` hold as they are written.

        >>> rules = AllowedSources({("acme", "folder"): ("acme/in",)})
        >>> paths = [PurePosixPath(path) for path in ("acme/in/a.csv", "acme", "acme/out")]
        >>> [rules.path_belongs_to_others("default", path) for path in paths]
        [True, True, False]
        """
        containing = _folders_above(path)
        refused, text = set(map(str.casefold, containing)), str(path).casefold()
        is_of_others = any(
            folder in refused or text == "." or folder.startswith(f"{text}/")
            for (owner, kind), names in self.rules.items()
            if kind == "folder" and owner != tenant
            for folder in map(str.casefold, names)
        )
        return is_of_others and containing.isdisjoint(self.rules.get((tenant, "folder"), ()))

    def missing_rule(self, tenant: str, source: TriggerSource) -> str | None:
        """Return the rule that a tenant lacks to read a source, or None if it may, or if it needs none."""
        rule = _find_rule(source)
        if rule is None:
            return None
        kind, name = rule
        if kind == "folder":
            is_allowed = self.allows_folder(tenant, name)
        else:
            is_allowed = self.allows_name(tenant, kind, name)
        return None if is_allowed else describe_rule(tenant, kind, name)


def _folders_above(path: PurePosixPath) -> set[str]:
    """Return a path and all folders above it, as rules write them.

    >>> sorted(_folders_above(PurePosixPath("orders/in")))
    ['.', 'orders', 'orders/in']
    """
    return {str(path), *map(str, path.parents)}


def _spell(kind: SourceKind, name: str) -> str:
    """Return what the spellings of a name have in common. Some servers ignore the case of a bucket.

    >>> _spell("s3", "Orders"), _spell("event", "Shop")
    ('orders', 'Shop')
    """
    return spell_queue(name) if kind in _KINDS_WITH_CASE else name.lower()


def _find_rule(source: TriggerSource) -> tuple[SourceKind, str] | None:
    """Return the kind and the name of a source that a rule must allow, or None for another source."""
    match source:
        case Folder():
            return "folder", source.folder
        case Queue():
            return ("sqs", source.url) if source.url else ("table", str(source.table))
        case BucketObjects():
            return "s3", source.bucket
        case BusEvents():
            return "event", source.source
    return None


def describe_rule(tenant: str, kind: SourceKind, name: str) -> str:
    """Return the rule that allows a source.

    >>> describe_rule("default", "folder", "orders"), describe_rule("acme", "folder", "orders")
    ('folder:orders', 'acme/folder:orders')
    """
    rule = f"{kind}:{name}"
    return rule if tenant == DEFAULT_TENANT else f"{tenant}/{rule}"


def read_allowed_sources(environ: Mapping[str, str]) -> AllowedSources:
    """Return the rules in `NOETL_TRIGGER_SOURCES`, which are separated by `;` or line breaks.

    >>> read_allowed_sources({SOURCES_SETTING: "folder:orders; acme/folder:acme/in/"}).rules
    {('default', 'folder'): ('orders',), ('acme', 'folder'): ('acme/in',)}
    >>> read_allowed_sources({SOURCES_SETTING: "s3:;event:;"}).rules
    {}

    Raises:
        SettingError: a rule is invalid.
    """
    rules: dict[tuple[str, str], tuple[str, ...]] = {}
    event_queue = environ.get(EVENT_QUEUE_SETTING, "").strip() or None
    for text in re.split(r"[;\n]", environ.get(SOURCES_SETTING, "")):
        if text.strip() in ("", *(f"{kind}:" for kind in EVENT_KINDS)):
            continue  # A template makes a kind without a name of an empty list.
        rule = _RULE.fullmatch(text.strip())
        if rule is None:
            forms = (
                "`folder:PATH`, `sqs:URL`, `table:NAME`, `s3:BUCKET` or `event:SOURCE`,"
                " after `TENANT/` if it is of another tenant"
            )
            raise SettingError(f"{SOURCES_SETTING}: {text.strip()!r} must have the form {forms}.")
        owner = (rule["tenant"] or DEFAULT_TENANT, rule["kind"])
        name = rule["name"]
        if rule["kind"] == "folder":
            name = _read_folder(name)
        elif rule["kind"] == "sqs":
            _check_queue_is_free(name, environ)
        elif rule["kind"] in EVENT_KINDS and event_queue is None:
            raise SettingError(f"{SOURCES_SETTING}: {text.strip()!r} needs {EVENT_QUEUE_SETTING}.")
        rules[owner] = (*rules.get(owner, ()), name)
    return AllowedSources(rules, event_queue)


def _check_queue_is_free(name: str, environ: Mapping[str, str]) -> None:
    """Check that a queue is not one that a service uses itself.

    Raises:
        SettingError: it is.
    """
    for setting, subject in (("NOETL_QUEUE", "runs"), (EVENT_QUEUE_SETTING, "events")):
        used_queue = environ.get(setting, "").strip()
        if name_queue(name) == name_queue(used_queue):
            raise SettingError(f"{SOURCES_SETTING}: {name!r} is the queue of {subject} ({setting}).")


def _read_folder(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise SettingError(
            f"{SOURCES_SETTING}: {text!r} must be a folder below NOETL_FILES_ROOT, such as `orders`."
        )
    return str(path)
