"""The commands `noetl playbooks …`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_playbooks
from noetl.api.cli.display.console import (
    CommandError,
    print_message,
    write_json,
    write_stdout,
    write_table,
)
from noetl.api.cli.list_pages import CursorOption, JsonOption
from noetl.api.cli.registration_order import order_by_use
from noetl.api.cli.sources import compile_or_fail, names_file, read_source, report_findings
from noetl.api.cli.store_option import StoreOption
from noetl.api.service.errors import PlaybookError
from noetl.planner.catalogue import LIVE

if TYPE_CHECKING:
    from noetl.api.cli.access.playbook_access import PlaybookAccess
    from noetl.api.service.playbooks import PlaybookText
    from noetl.api.service.views import PlaybookEntry

app = typer.Typer(
    name="playbooks",
    help="Register playbooks in a store or a service, list, show, compare, promote and remove them.",
    no_args_is_help=True,
    epilog="Example: noetl playbooks register report.yaml",
)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME[@VERSION]", help="A version or an alias of a playbook. Default: the newest."
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Also if it does not fit the playbooks that it uses, or its callers."),
]

_LIST_HEADER = ("PLAYBOOK", "VERSION", "REGISTERED", "BY", "LIVE", "ALIASES")
_TIME_LENGTH = 19
_EXIT_DIFFERENT = 1


@app.command("register", no_args_is_help=True, epilog="Example: noetl playbooks register report.yaml")
def register_playbooks(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Playbooks; - is standard input.")],
    force: Annotated[
        bool,
        typer.Option("--force", help="Also if one does not fit the playbooks that it uses, or its callers."),
    ] = False,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Register playbooks, and write the name and the version of each to stdout.

    All of them are compiled first, so a wrong one leaves everything as it was. Those that others call are
    registered before them. A text that is registered already keeps its version. A new version is live, and
    its triggers replace those of the version before, unless a version was promoted.
    """
    sources = [read_source(file) for file in files]
    plans = [compile_or_fail(source) for source in sources]
    entries: list[PlaybookEntry] = []
    with open_playbooks(store, url, create=True) as playbooks:
        for number in order_by_use(plans):
            plan = plans[number]
            try:
                entry, is_new = playbooks.register(plan, is_forced=force)
            except PlaybookError as error:
                raise report_findings(sources[number], error.diagnostics) from error
            entries.append(entry)
            if not json:
                write_stdout(f"{entry.name}@{entry.version}\n")
                print_message(_describe(entry, len(plan.header.triggers), is_new=is_new))
                for finding in entry.diagnostics or ():
                    place = f"{sources[number].file}:{finding.line}:{finding.column}"
                    hint = f" ({finding.hint})" if finding.hint else ""
                    print_message(f"{place}: {finding.severity}: {finding.code} {finding.message}{hint}")
    if json:
        from noetl.api.service.views import to_json

        write_json([to_json(entry) for entry in entries])


def _describe(entry: PlaybookEntry, triggers: int, *, is_new: bool) -> str:
    """Return what the registration of a version with some triggers has changed."""
    from noetl.planner.registration.ended_schedules import ENDED_CODE

    if not is_new:
        return "registered before; nothing has changed"
    if entry.pinned:
        label = f"{entry.name}@{entry.version}"
        return f"registered; version {entry.live_version} stays live until `noetl playbooks promote {label}`"
    if not triggers:
        return "registered"
    left = triggers - sum(finding.code == ENDED_CODE for finding in entry.diagnostics or ())
    if left == 0:
        return (
            f"registered; its {_count_triggers(triggers)} {'has' if triggers == 1 else 'have'} no firing left"
        )
    fired = f"its {_count_triggers(left)}" if left == triggers else f"{left} of its {triggers} triggers"
    return f"registered; services and workers of the store fire {fired} from now on"


def _count_triggers(number: int) -> str:
    return "trigger" if number == 1 else f"{number} triggers"


@app.command("list", epilog="Example: noetl playbooks list --name report")
def list_playbooks(
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="All versions of this playbook.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1000, metavar="N", help="The maximum number of lines.")
    ] = 100,
    cursor: CursorOption = None,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """List the newest version of each registered playbook, or all versions of one, the newest first.

    Triggers and starts by name use the live version. It follows the newest one unless it is pinned.
    """
    with open_playbooks(store, url) as playbooks:
        page = playbooks.find(name, limit, cursor)
    if json:
        write_json(page)
        return
    write_table(_rows(page.items, with_header=sys.stdout.isatty()))
    if page.next_cursor:
        print_message(f"more playbooks: --cursor {page.next_cursor}")
    elif not page.items:
        print_message("no playbooks")


def _rows(entries: Sequence[PlaybookEntry], *, with_header: bool) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (
            entry.name,
            entry.version,
            f"{entry.registered_at[:_TIME_LENGTH]}Z",
            entry.registered_by or "-",
            f"{entry.live_version} (pinned)" if entry.pinned else entry.live_version,
            _list_aliases(entry),
        )
        for entry in entries
    ]
    return [_LIST_HEADER, *rows] if with_header and rows else rows


def _list_aliases(entry: PlaybookEntry) -> str:
    return ", ".join(f"{alias}={version}" for alias, version in entry.aliases.items()) or "-"


@app.command("show", no_args_is_help=True, epilog="Example: noetl playbooks show report@2")
def show_playbook(
    name: NameArgument, json: JsonOption = False, store: StoreOption = None, url: UrlOption = None
) -> None:
    """Write the text of a registered playbook to stdout, and which version is live to stderr."""
    with open_playbooks(store, url) as playbooks:
        found = playbooks.get(*_split(name))
    if json:
        from noetl.api.service.views import members

        write_json({**members(found.entry), "source": found.text})
        return
    write_stdout(found.text)
    entry = found.entry
    live = f"live is pinned to {entry.live_version}" if entry.pinned else f"live is {entry.live_version}"
    aliases = f"; aliases: {_list_aliases(entry)}" if entry.aliases else ""
    print_message(f"version {entry.version} of {entry.name}; {live}{aliases}")


@app.command("diff", no_args_is_help=True, epilog="Example: noetl playbooks diff report@1 report@2")
def compare_playbooks(
    name: NameArgument,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME@VERSION|VERSION|FILE]",
            help="The new text: a version or an alias, also of another playbook, or a file.",
        ),
    ] = None,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Compare a registered playbook with another version, another playbook, or a file.

    The first argument is the old text, the second the new one. With one argument, the version before it is
    the old text. The exit status is 1 if they differ.
    """
    playbook, version = _split(name)
    with open_playbooks(store, url) as playbooks:
        named = playbooks.get(playbook, version)
        if other is None:
            before = _version_before(playbooks, playbook, named.entry.version)
            old, new = _label(playbooks.get(playbook, before)), _label(named)
        else:
            old, new = _label(named), _read_other(playbooks, named.entry, other)
    lines = difflib.unified_diff(old[1].splitlines(), new[1].splitlines(), old[0], new[0], lineterm="")
    shown = "".join(f"{line}\n" for line in lines)
    write_stdout(shown)
    if shown:
        raise typer.Exit(_EXIT_DIFFERENT)


def _label(playbook: PlaybookText) -> tuple[str, str]:
    """Return the name with the version of a registered playbook, and its text."""
    return f"{playbook.entry.name}@{playbook.entry.version}", playbook.text


def _read_other(playbooks: PlaybookAccess, playbook: PlaybookEntry, text: str) -> tuple[str, str]:
    """Return the label and the text of what is compared with a playbook: a version, a file or a playbook."""
    if _is_version(playbooks, playbook, text):
        return _label(playbooks.get(playbook.name, text))
    if names_file(text):
        return text, read_source(text).text
    name, version = _split(text)
    if version is None:
        raise CommandError(f"there is no file {text}, and no version or alias `{text}` of `{playbook.name}`")
    return _label(playbooks.get(name, version))


@app.command("remove", no_args_is_help=True, epilog="Example: noetl playbooks remove report@1")
def remove_playbook(
    name: NameArgument,
    all_versions: Annotated[
        bool, typer.Option("--all", help="Remove all versions. Otherwise one must be named.")
    ] = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Remove a version of a playbook from the registry, or all. Runs that have not ended keep it there.

    If it was live, the newest version is live then, with its triggers. A version with an alias is not
    removed.
    """
    playbook, version = _split(name)
    if all_versions == (version is not None):
        raise CommandError(f"name a version, such as {playbook}@1, or add --all for all versions")
    with open_playbooks(store, url) as playbooks:
        playbooks.remove(playbook, version)
    print_message(f"removed {name}")


@app.command("promote", no_args_is_help=True, epilog="Example: noetl playbooks promote report@2")
def promote_playbook(
    name: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="A registered version.")],
    alias: Annotated[str, typer.Option("--as", metavar="ALIAS", help="The alias that names it then.")] = LIVE,
    force: ForceOption = False,
    json: JsonOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Let `live` name a version, or another alias.

    Triggers, starts by name and `workflow` actions then use it. `live` stays at it when other versions are
    registered, until `noetl playbooks unpin`.
    """
    playbook, version = _split(name)
    if version is None:
        raise CommandError(f"name a version, such as {name}@1")
    with open_playbooks(store, url) as playbooks:
        found = playbooks.get(playbook, version)
        try:
            entry = playbooks.promote(playbook, found.entry.version, alias, is_forced=force)
        except PlaybookError as error:
            raise _report_unfit(found, error) from error
    if json:
        write_json(entry)
    else:
        print_message(f"{entry.name} of {playbook} is version {entry.version}")


@app.command("unpin", no_args_is_help=True, epilog="Example: noetl playbooks unpin report")
def unpin_playbook(
    name: Annotated[
        str, typer.Argument(metavar="NAME[@ALIAS]", help="A playbook, or an alias of it. Default: live.")
    ],
    force: ForceOption = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Let `live` follow the newest version again, or remove another alias."""
    playbook, alias = _split(name)
    with open_playbooks(store, url) as playbooks:
        newest = playbooks.get(playbook, None)
        try:
            playbooks.remove_alias(playbook, alias or LIVE, is_forced=force)
        except PlaybookError as error:
            raise _report_unfit(newest, error) from error
    if alias in (None, LIVE):
        print_message(f"live of {playbook} follows the newest version, which is {newest.entry.version}")
    else:
        print_message(f"removed the alias {alias} of {playbook}")


def _report_unfit(playbook: PlaybookText, error: PlaybookError) -> CommandError:
    """Report why a registered version does not fit the others, and return the error that ends the command."""
    from noetl.api.cli.sources import PlaybookSource

    entry = playbook.entry
    source = PlaybookSource(f"{entry.name}@{entry.version}", playbook.text.encode("utf-8", "replace"))
    return report_findings(source, error.diagnostics)


def _split(text: str) -> tuple[str, str | None]:
    """Return the name of a playbook and its version, if one is named.

    >>> _split("team/report@2"), _split("report")
    (('team/report', '2'), ('report', None))
    """
    name, _, version = text.rpartition("@")
    return (name, version) if name and version else (text, None)


def _is_version(playbooks: PlaybookAccess, playbook: PlaybookEntry, text: str) -> bool:
    """Return whether a text is an alias or one of the newest versions of a playbook, and not a file."""
    if text == LIVE or text in playbook.aliases:
        return True
    return any(entry.version == text for entry in playbooks.find(playbook.name, 1000, None).items)


def _version_before(playbooks: PlaybookAccess, name: str, version: str) -> str:
    """Return the version that was registered before another one.

    Raises:
        CommandError: there is none.
    """
    versions = [entry.version for entry in playbooks.find(name, 1000, None).items]
    earlier = versions[versions.index(version) + 1 :] if version in versions else []
    if not earlier:
        raise CommandError(f"there is no version of {name} before {version}; name a file or a version")
    return earlier[0]
