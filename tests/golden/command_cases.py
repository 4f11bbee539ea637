"""The golden cases of commands: wrong commands, each with all that the user sees of it, and its exit code.

`commands/NAME.txt` holds the output of the case NAME. A case runs in this process, in an empty folder.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

from noetl.api.cli import main
from tests.golden.failed_runs import FAILED_RUNS

COMMANDS_FOLDER = Path(__file__).parent / "commands"

GOOD = "name: good\nsteps: [{name: greet, run: [{action: log, message: hi}]}]\n"
"""A playbook without findings."""

_SLOW_SECONDS = 2.0

_RUN_ID = re.compile(r"\b[0-9a-f]{24}\b")
_VARYING = (
    (_RUN_ID, "ID"),
    (re.compile(r"(?<=run )[0-9a-f]{20}\b"), "CHILD"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?"), "TIME"),
    (re.compile(r"(?:(?<=  )|(?<=succeeded in ))\d+(?:\.\d)? m?s\b"), "DURATION"),
    (re.compile(r"^time .*\n", re.MULTILINE), ""),
    (re.compile(r"(?<=by )\S+ process \d+"), "WORKER"),
    (re.compile(r"127\.0\.0\.1:\d{4,5}"), "127.0.0.1:PORT"),
)


@dataclass(frozen=True)
class CommandCase:
    """Commands of a shell, with the files and the environment that they find.

    In a command, `{ID}` is the id of the run that an earlier command has printed, `{PREFIX}` its beginning.
    `{URL}` is a server that gives `response` to every request; one of `/slow` is answered late. `{DSN}` is an
    empty database of Postgres. `edited_files` are written after the first command.
    """

    name: str
    commands: Sequence[str]
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    needs_postgres: bool = False
    edited_files: Mapping[str, str] = field(default_factory=dict)
    response: tuple[int, str] | None = None
    prepare: Callable[[], None] | None = None

    @property
    def path(self) -> Path:
        return COMMANDS_FOLDER / f"{self.name}.txt"


def run_case(case: CommandCase, folder: Path, dsn: str = "") -> str:
    """Return the commands of the case with their output and their exit codes, as its file holds them.

    `dsn` is an empty database, if the case needs one.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(mock.patch.dict(os.environ, _environment(case), clear=True))
        url = stack.enter_context(_serve(case.response)) if case.response else ""
        _write_files({**_FILES, **case.files})
        if case.prepare is not None:
            case.prepare()
        output, run_id = "", ""
        for line in case.commands:
            words = shlex.split(line.format(ID=run_id, PREFIX=run_id[:8], URL=url, DSN=dsn))
            exit_code, text = _run_command(words, case.stdin)
            run_id = next(iter(_RUN_ID.findall(text)), run_id)
            output += f"$ {line}\n{text}[exit code {exit_code}]\n"
            _write_files(case.edited_files)
    for pattern, replacement in _VARYING:
        output = pattern.sub(replacement, output)
    for address, name in ((url, "{URL}"), (dsn, "{DSN}")):
        output = output.replace(address, name) if address else output
    return output


def _write_files(files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def _environment(case: CommandCase) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**kept, "COLUMNS": "100", **case.environ}


def _run_command(words: list[str], stdin: str) -> tuple[object, str]:
    """Return the exit code of a command, and what a terminal shows of both of its streams."""
    assert words[0] == "noetl"
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()))),
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(shown),
    ):
        try:
            main()
        except SystemExit as error:
            exit_code = error.code
    return exit_code or 0, shown.buffer.getvalue().decode()


@contextlib.contextmanager
def _serve(response: tuple[int, str]) -> Iterator[str]:
    """Serve a response to every request, and yield the URL of the server."""
    status, text = response

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"] or 0))
            if self.path.startswith("/slow"):
                time.sleep(_SLOW_SECONDS)
            body = text.encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Write no log."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


_TRIP = """\
name: trip
input:
  region: string
  mode: {type: string, enum: ["", flight, train]}
  count: {type: integer, default: 1}
steps: [{name: book, run: [{action: log, message: "{{ mode }}"}]}]
"""
_LOGIN = """\
name: login
input: {password: integer, db_password: {enum: [one, two]}}
steps: [{name: greet, run: [{action: log, message: hi}]}]
"""
_FETCH = """\
name: fetch
steps:
  - name: get
    run:
      - {action: http, url: "{{ url | raw }}"}
"""
_BACKUP = """\
name: backup
steps:
  - name: copy
    run:
      - action: shell
        command: "echo copied 3 files; echo 'disk full' >&2; echo 'gave up' >&2; exit 3"
"""
_FLOOD = """\
name: flood
steps:
  - name: list
    run:
      - {action: shell, command: "echo begin; yes | head -c 1100000; exit 4"}
"""
_COMMANDS = """\
name: commands
input: {command: string}
steps:
  - name: begin
    run:
      - {action: shell, command: "{{ command | raw }}"}
"""
_ENV = """\
name: env
steps:
  - name: a
    run: [{action: log, message: "{{ env.HOME }}"}]
"""
_CHILD = """\
name: child
input: {tenant: string, units: integer}
steps:
  - name: score
    run: [{action: set, set: {share: "{{ 10 / units }}"}}]
output: {share: "{{ share }}"}
"""
_PARENT = """\
name: parent
input: {playbook: {default: child}, policy: {default: abort}}
steps:
  - name: choose
    rule: [{case: "{{ input.policy == 'abort' }}", run: [each]}, {case: default, run: [all]}]
  - name: each
    loop: {items: [5, 0], as: n}
    run: [{action: workflow, playbook: "{{ input.playbook }}", input: {tenant: a, units: "{{ n }}"}}]
  - name: all
    loop: {items: [5, 0], as: n, on_error: continue}
    run: [{action: workflow, playbook: child, input: {tennant: a, units: "{{ n }}"}}]
"""
_MARGINS = """\
name: margins
steps:
  - name: margin
    loop: {items: "{{ range(30) | list }}", as: n, on_error: continue}
    run: [{action: set, set: {share: "{{ 1 / (n % 10 - 3) }}"}}]
"""
_FIFTEEN = """\
name: fifteen
input: {costs: {default: [5, 0]}}
steps:
  - name: margin
    loop: {items: "{{ costs }}", as: cost}
    run: [{action: set, set: {share: "{{ 10 / cost }}"}}]
"""
_CALLS = """\
name: calls
input: {function: string, order: {type: object, default: {order: {id: 1}}}}
steps:
  - name: call
    run: [{action: python, function: "{{ function }}", args: "{{ order }}"}]
"""
_WRONG_FUNCTIONS = """\
import os
import sys


def give_set(order):
    return {1, 2}


def stop(order):
    os._exit(5)


def warn(order):
    print("the order has no price", file=sys.stderr)
    raise ValueError("no price")
"""
_SQL = """\
name: sql
input: {dsn: string, query: string}
steps:
  - name: store
    run: [{action: postgres, connection: "{{ dsn }}", query: "{{ query | raw }}"}]
"""
_LOAD = """\
name: load
input: {function: {default: "orders:load"}}
steps:
  - name: load
    run:
      - {action: python, function: "{{ function }}", args: {order: {id: 1}}}
"""
_ORDERS = """\
def load(order):
    return price(order)


def price(order):
    return order["price"]
"""
_LATE = """\
name: late
input: {path: string}
steps:
  - name: begin
    rule: [{case: "{{ input.path == 'a' }}", run: [a]}, {case: default, run: [b]}]
  - name: a
    run: [{action: shell, command: "sleep 9", timeout: 100ms}]
  - name: b
    timeout: 100ms
    run: [{action: shell, command: "sleep 9"}]
"""
_FAILED_RUN_SETTINGS = {"NOETL_SECRET_TOKEN": "Tr0ub4dor3-horse"}
_ORDERS_TABLE = "amount:number,name\n1,a\nx2,b\n"
_FILES = {"orders.csv": _ORDERS_TABLE, "good.yaml": GOOD, "trip.yaml": _TRIP, "login.yaml": _LOGIN}

COMMAND_CASES = (
    # The command line itself
    CommandCase("unknown_command", ["noetl chek", "noetl frobnicate", "noetl list", "noetl runs shw"]),
    CommandCase(
        "unknown_option",
        ["noetl check --formt x", "noetl check --json good.yaml", "noetl runs list -x", "noetl --versio"],
    ),
    CommandCase(
        "missing_argument",
        ["noetl submit good.yaml", "noetl run good.yaml -i", "noetl runs resume --from x"],
    ),
    CommandCase("option_before_command", ["noetl --store x.db run good.yaml", "noetl --json runs list"]),
    CommandCase("unknown_code", ["noetl explain NP10", "noetl explain NP1O1", "noetl explain everything"]),
    CommandCase("extra_argument", ["noetl plan a.yaml b.yaml", "noetl run good.yaml --quiet=3"]),
    CommandCase(
        "wrong_option_value",
        [
            "noetl check --format xml good.yaml",
            "noetl runs list --status faild",
            "noetl runs list --limit 0",
            "noetl runs list --limit many",
            "noetl serve --port 70000",
        ],
    ),
    CommandCase(
        "unknown_setting",
        ["noetl check good.yaml"],
        environ={"NOETL_STROE": "sqlite:///x.db", "NOETL_SECRET_STORE": "x", "NOETL_TEAM": "sales"},
    ),
    CommandCase(
        "wrong_setting",
        ["noetl run good.yaml", "noetl runs list"],
        environ={"NOETL_LEASE_SECONDS": "abc"},
    ),
    CommandCase(
        "wrong_service_setting", ["noetl serve --port 0"], environ={"NOETL_ALLOW_ACTIONS": "htpp, log"}
    ),
    CommandCase(
        "wrong_public_url", ["noetl serve --port 0"], environ={"NOETL_PUBLIC_URL": "ftp://example.com"}
    ),
    CommandCase(
        "wrong_store",
        [
            "noetl runs list --store x.db",
            "noetl runs list --store sqlte:///x.db",
            "noetl runs list --store dynamodb://",
            "noetl runs list --store sqlite:///good.yaml",
            "noetl runs list --store memory://",
        ],
    ),
    # Files
    CommandCase(
        "unreadable_file",
        [
            "noetl check good.ymal",
            "noetl run nosuch.yaml",
            "noetl check playbooks",
            "noetl plan empty",
            "noetl check ''",
        ],
        {"playbooks/good.yaml": GOOD, "empty/notes.txt": ""},
    ),
    CommandCase(
        "not_a_playbook",
        ["noetl check program", "noetl check utf16.yaml", "noetl run table.csv", "noetl check -"],
        {
            "program": b"\x7fELF\x02\x01\0\0" * 400_000,
            "utf16.yaml": GOOD.encode("utf-16"),
            "table.csv": "id,amount\n1,2\n",
        },
    ),
    # Inputs
    CommandCase(
        "wrong_input",
        [
            "noetl run trip.yaml -i mode=car -i count=abc -i k=3 -i regoin=eu",
            "noetl run trip.yaml -i region=5",
            "noetl run trip.yaml -i region",
            "noetl run trip.yaml --input latin1.json",
            "noetl run trip.yaml --input list.json",
            "noetl run trip.yaml --input open.json",
        ],
        {"latin1.json": b'{"region": "\xfc"}', "list.json": "[]", "open.json": '{"region": '},
    ),
    CommandCase(
        "wrong_secret_input", ["noetl run login.yaml -i password=Tr0ub4dor3 -i db_password=Tr0ub4dor3"]
    ),
    # Runs
    CommandCase("no_store", ["noetl runs list"]),
    CommandCase(
        "unknown_run",
        ["noetl run good.yaml -q", "noetl runs list", "noetl runs show nosuch", "noetl runs show 000000"],
    ),
    CommandCase(
        "wrong_resume",
        [
            "noetl run good.yaml -q",
            "noetl runs list",
            "noetl runs resume {ID} --from gret",
            "noetl runs resume {PREFIX} --from night",
            "noetl runs resume {ID}",
            "noetl runs cancel {PREFIX}",
        ],
    ),
    *(
        CommandCase(name, [f"noetl run {name}.yaml -q"], {f"{name}.yaml": text}, environ=_FAILED_RUN_SETTINGS)
        for name, text in FAILED_RUNS.items()
    ),
    # Actions that fail
    CommandCase(
        "failed_request",
        [
            "noetl run fetch.yaml -q -i url={URL}/orders?key=1",
            "noetl run fetch.yaml -q -i url=http://127.0.0.1:1",
        ],
        {"fetch.yaml": _FETCH},
        response=(404, '{"error": "no such  order"}'),
    ),
    CommandCase(
        "failed_command",
        ["noetl run backup.yaml -q"],
        {"backup.yaml": _BACKUP},
    ),
    CommandCase("failed_long_output", ["noetl run flood.yaml -q"], {"flood.yaml": _FLOOD}),
    CommandCase(
        "failed_function",
        ["noetl run load.yaml -q", "noetl run load.yaml -q -i function=broken:load"],
        {"load.yaml": _LOAD, "orders.py": _ORDERS, "broken.py": "def load(:\n"},
    ),
    CommandCase(
        "failed_by_a_timeout",
        ["noetl run late.yaml -q -i path=a", "noetl run late.yaml -q -i path=b"],
        {"late.yaml": _LATE},
    ),
    CommandCase(
        "failed_start_of_a_command",
        [
            "noetl run commands.yaml -q -i command=nosuch",
            "noetl run commands.yaml -q -i command=./orders.csv",
            "noetl run commands.yaml -q -i 'command=kill -9 $$'",
        ],
        {"commands.yaml": _COMMANDS, "orders.csv": "a\n"},
    ),
    CommandCase(
        "refused_url",
        [
            "noetl run fetch.yaml -q -i url=nosuch",
            "noetl run fetch.yaml -q -i url=ftp://example.com/",
            "noetl run fetch.yaml -q -i url=http://10.255.255.1/",
            "noetl run fetch.yaml -q -i url=http://169.254.169.254/",
        ],
        {"fetch.yaml": _FETCH},
    ),
    CommandCase(
        "failed_by_a_late_response",
        ["noetl run fetch.yaml -q -i url={URL}/slow"],
        {"fetch.yaml": _FETCH.replace("raw }}", 'raw }}", timeout: "1s')},
        response=(200, "{}"),
    ),
    CommandCase(
        "failed_call_of_a_function",
        [
            "noetl run calls.yaml -q -i function=nosuch:f",
            "noetl run calls.yaml -q -i function=wrong:nosuch",
            "noetl run calls.yaml -q -i function=wrong",
            "noetl run calls.yaml -q -i function=wrong:stop -i order={{}}",
            "noetl run calls.yaml -q -i function=wrong:give_set",
            "noetl run calls.yaml -q -i function=wrong:stop",
            "noetl run calls.yaml -q -i function=wrong:warn",
        ],
        {"calls.yaml": _CALLS, "wrong.py": _WRONG_FUNCTIONS},
    ),
    CommandCase(
        "failed_statement",
        [
            'noetl run sql.yaml -q -i dsn={DSN} -i "query=selct 1"',
            'noetl run sql.yaml -q -i dsn={DSN} -i "query=select * from nosuch"',
            'noetl run sql.yaml -q -i dsn={DSN} -i "query=create table t (a int primary key)"',
            'noetl run sql.yaml -q -i dsn={DSN} -i "query=insert into t values (1), (1)"',
        ],
        {"sql.yaml": _SQL},
        needs_postgres=True,
    ),
    CommandCase("read_variable_of_the_shell", ["noetl run env.yaml"], {"env.yaml": _ENV}),
    CommandCase(
        "failed_child_run",
        [
            "noetl run parent.yaml -q",
            "noetl runs show {ID}",
            "noetl run parent.yaml -q -i playbook=h_chlid",
        ],
        {"parent.yaml": _PARENT, "child.yaml": _CHILD},
    ),
    CommandCase(
        "failed_items_that_were_forgiven",
        ["noetl run parent.yaml -i policy=continue", "noetl run margins.yaml", "noetl runs show {ID}"],
        {"parent.yaml": _PARENT, "child.yaml": _CHILD, "margins.yaml": _MARGINS},
    ),
    CommandCase(
        "failed_run_in_all_commands",
        [
            "noetl run fifteen.yaml",
            "noetl runs list",
            "noetl runs show last",
            "noetl runs show last --step margin",
            "noetl runs items last --step margin --state failed",
            "noetl runs watch last",
        ],
        {"fifteen.yaml": _FIFTEEN},
    ),
    CommandCase(
        "resume_after_an_edit",
        [
            "noetl run fifteen.yaml -q",
            "noetl runs resume last",
            "noetl runs resume last --playbook fifteen.yaml -q",
        ],
        {"fifteen.yaml": _FIFTEEN},
        edited_files={"fifteen.yaml": _FIFTEEN.replace("10 / cost", "10 / (cost or 1)")},
    ),
    # Services
    CommandCase(
        "not_a_service",
        [
            "noetl submit good.yaml --url {URL}",
            "noetl submit good.yaml --url {URL} --wait",
            "noetl runs answer {URL}/callbacks/x",
        ],
        response=(200, '{"ok": true}'),
    ),
    CommandCase(
        "not_a_service_but_a_page",
        ["noetl submit good.yaml --url {URL}", "noetl runs answer {URL}/callbacks/x"],
        response=(404, "<h1>Not found</h1>"),
    ),
    CommandCase(
        "wrong_service_url",
        [
            "noetl submit good.yaml --url http://[::1",
            "noetl submit good.yaml --url host:8000",
            "noetl submit good.yaml --url http://127.0.0.1:1",
            "noetl runs answer http://[::1/callbacks/9f3c",
        ],
    ),
    # Pictures
    CommandCase(
        "unknown_picture_format",
        ["noetl plan good.yaml -o good.jpg", "noetl plan good.yaml -o no/such.dot"],
    ),
)
