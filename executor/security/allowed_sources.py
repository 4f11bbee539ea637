"""Sources that triggers may read: the folders and queues that an operator allows each tenant.

A tenant may write the name of any folder or queue into a playbook. A trigger that reads it would give its
files or messages to the runs of that tenant. So a service reads only the sources that its operator has
listed for the tenant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import PurePosixPath
from typing import Literal

from noetl.executor.errors import SettingError
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.planner.frozen import frozen

SOURCES_SETTING = "NOETL_TRIGGER_SOURCES"
"""The setting that lists the sources of each tenant."""

SourceKind = Literal["folder", "sqs", "table"]

_RULE = re.compile(r"(?:(?P<tenant>[^/:\s]+)/)?(?P<kind>folder|sqs|table):(?P<name>\S.*)")


@frozen
class AllowedSources:
    """The sources of each tenant: `rules` maps (tenant, kind) to names of sources."""

    rules: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def tenants(self, kinds: Iterable[SourceKind]) -> list[str]:
        """Return the tenants that may read sources of some kinds, in the order of their names."""
        wanted = set(kinds)
        return sorted({tenant for tenant, kind in self.rules if kind in wanted})

    def allows_folder(self, tenant: str, folder: str) -> bool:
        """Return whether a tenant may read a folder: one that is listed, or one below it."""
        path = PurePosixPath(folder)
        return any(path.is_relative_to(name) for name in self.rules.get((tenant, "folder"), ()))

    def allows_queue(self, tenant: str, kind: SourceKind, name: str) -> bool:
        """Return whether a tenant may read a queue of SQS, or a table."""
        return name in self.rules.get((tenant, kind), ())


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

    Raises:
        SettingError: a rule is invalid.
    """
    rules: dict[tuple[str, str], tuple[str, ...]] = {}
    for text in re.split(r"[;\n]", environ.get(SOURCES_SETTING, "")):
        if not text.strip():
            continue
        rule = _RULE.fullmatch(text.strip())
        if rule is None:
            forms = "`folder:PATH`, `sqs:URL` or `table:NAME`, after `TENANT/` if it is of another tenant"
            raise SettingError(f"{SOURCES_SETTING}: {text.strip()!r} must have the form {forms}.")
        owner = (rule["tenant"] or DEFAULT_TENANT, rule["kind"])
        name = rule["name"]
        if rule["kind"] == "folder":
            name = _read_folder(name)
        elif name == environ.get("NOETL_QUEUE", "").strip():
            raise SettingError(f"{SOURCES_SETTING}: {name!r} is the queue of runs (NOETL_QUEUE).")
        rules[owner] = (*rules.get(owner, ()), name)
    return AllowedSources(rules)


def _read_folder(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise SettingError(
            f"{SOURCES_SETTING}: {text!r} must be a folder below NOETL_FILES_ROOT, such as `orders`."
        )
    return str(path)
