from __future__ import annotations

import json
import os
import select
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.errors import ActionError
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.security.redaction import REVEALED_SECRETS, redact
from tests.action_calls import LOCAL, perform_action


def shell(command: Any, *, folder: Path | None = None, **parameters: Any) -> Any:
    capabilities = replace(LOCAL, folder=folder) if folder else LOCAL
    return perform_action("shell", capabilities=capabilities, command=command, **parameters)


def test_the_result_has_exit_code_and_output() -> None:
    assert shell("echo out; echo err >&2") == {"exit_code": 0, "stdout": "out\n", "stderr": "err\n"}


def test_a_list_is_run_without_a_shell() -> None:
    words = ["printf", "%s|", "$HOME", "{{ a }}", 5, "{{ n }}"]
    assert shell(words, names={"a": "x y; z", "n": [1]})["stdout"] == "$HOME|x y; z|5|[1]|"
    assert shell("{{ words }}", names={"words": ["echo", "a  b"]})["stdout"] == "a  b\n"


def test_text_is_run_by_a_shell() -> None:
    assert shell("printf '%s|' a b | tr '|' {{ to }}", names={"to": "$"})["stdout"] == "a$b$"


@pytest.mark.parametrize(
    ("command", "parse", "data"),
    [
        ("echo '{\"a\": [1]}'", "json", {"a": [1]}),
        ("printf 'a\\nb\\n'", "lines", ["a", "b"]),
        ("true", "lines", []),
    ],
)
def test_output_is_parsed(command: str, parse: str, data: Any) -> None:
    assert shell(command, parse=parse)["data"] == data


def test_output_that_is_not_json_fails() -> None:
    with pytest.raises(ActionError, match="not JSON") as caught:
        shell("echo x", parse="json")
    assert caught.value.type == "CommandFailed"


def test_an_error_has_the_exit_code_and_the_last_line() -> None:
    with pytest.raises(ActionError, match="exit code 3: last") as caught:
        shell("echo out; echo first >&2; echo last >&2; exit 3")
    error = caught.value
    assert (error.type, error.retryable) == ("CommandFailed", True)
    assert error.details == {"exit_code": 3, "stdout": "out\n", "stderr": "first\nlast\n"}


@pytest.mark.parametrize(
    "command",
    [
        'printf %s "$S" >&2; head -c 4080 /dev/zero >&2; exit 3',
        "head -c 480 /dev/zero | tr '\\0' x >&2; printf %s \"$S\" >&2; exit 3",
    ],
)
def test_a_secret_where_an_error_is_shortened_is_redacted(command: str) -> None:
    value = "first-half-of-a-secret-second-half"
    REVEALED_SECRETS.add(value)
    with pytest.raises(ActionError, match="exit code 3") as caught:
        shell(command, env={"S": value})
    redacted = redact([caught.value.message, caught.value.details])
    assert "-half" not in str(redacted)


def test_an_error_keeps_the_end_of_the_output() -> None:
    with pytest.raises(ActionError) as caught:
        shell("head -c 100000 /dev/zero | tr '\\0' x; echo end; exit 1")
    assert len(caught.value.details["stdout"]) == 4096
    assert caught.value.details["stdout"].endswith("xend\n")


def test_an_error_names_the_signal() -> None:
    with pytest.raises(ActionError, match="killed by SIGKILL"):
        shell("kill -9 $$")


def test_a_missing_command_is_an_error() -> None:
    with pytest.raises(ActionError, match="no such file") as caught:
        shell(["/nonexistent/command"])
    assert (caught.value.type, caught.value.retryable) == ("CommandFailed", False)
    assert caught.value.details["exit_code"] == 127


@pytest.mark.parametrize("command", [[], ["a\0b"], "a\0b"])
def test_an_invalid_command_is_refused(command: Any) -> None:
    with pytest.raises(ActionError) as caught:
        shell(command)
    assert caught.value.type == "ParameterError"


def test_stdin_is_passed_to_the_command() -> None:
    big = "x" * 900_000
    assert shell("cat", stdin=big)["stdout"] == big
    assert shell("cat", stdin="{{ v }}", names={"v": {"a": 1}})["stdout"] == '{"a":1}'
    assert shell("cat")["stdout"] == ""
    assert shell("true", stdin=big)["exit_code"] == 0


def test_the_command_runs_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    assert shell("pwd", folder=tmp_path)["stdout"] == f"{tmp_path}\n"
    assert shell("pwd", folder=tmp_path, cwd="sub")["stdout"] == f"{tmp_path}/sub\n"
    with pytest.raises(ActionError, match="not a folder"):
        shell("pwd", folder=tmp_path, cwd="missing")


def test_the_environment_depends_on_the_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_CANARY", "seen")
    monkeypatch.setenv("LANG", "C.UTF-8")
    dump = f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"

    def environment(capabilities: Capabilities) -> dict[str, str]:
        run = perform_action(
            "shell", capabilities=capabilities, command=dump, env={"A": "{{ x }}", "N": 5}, names={"x": "$A"}
        )
        return dict(json.loads(run["stdout"]))

    local = environment(LOCAL)
    assert (local["NOETL_CANARY"], local["A"], local["N"]) == ("seen", "$A", "5")
    restricted = environment(Capabilities(shell=True))
    shell_variables = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
    assert restricted.keys() - shell_variables <= {"PATH", "HOME", "TMPDIR", "LANG", "A", "N"}
    assert restricted["LANG"] == "C.UTF-8"


def test_secrets_of_the_environment_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_SECRET_UNUSED", "nobody-has-asked-for-it")
    assert "UNUSED=***" in redact(shell("env"))["stdout"]


@pytest.mark.parametrize("env", [{"": "x"}, {"a=b": "x"}, {"a": "x\0"}])
def test_an_invalid_variable_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(ActionError, match="not a valid variable"):
        shell("true", env=env)


def test_output_is_limited() -> None:
    with pytest.raises(ActionError, match="stdout is longer than 1,048,576 bytes") as caught:
        shell("yes")
    assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", False)
    assert caught.value.details["exit_code"] is None
    with pytest.raises(ActionError, match="stderr is longer"):
        shell("yes >&2")


def test_of_long_output_the_beginning_and_the_exit_code_are_kept() -> None:
    with pytest.raises(ActionError, match="bytes; its exit code was 4") as caught:
        shell("echo begin; echo note >&2; yes | head -c 1100000; exit 4")
    details = caught.value.details
    assert (details["exit_code"], details["stderr"]) == (4, "note\n")
    assert details["stdout"].startswith("begin\ny\n")
    assert len(details["stdout"]) == 4096


def test_a_timeout_terminates_the_process_group(tmp_path: Path) -> None:
    command = "trap 'echo asked > asked; exit' TERM; sleep 600 & echo $! > child; wait"
    with pytest.raises(ActionError) as caught:
        shell(command, folder=tmp_path, seconds=0.5)
    assert (caught.value.type, caught.value.retryable) == ("Timeout", True)
    assert (tmp_path / "asked").read_text() == "asked\n"
    assert_process_ends(tmp_path / "child")


def test_a_command_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    command = "echo $$ > child; trap '' TERM; while :; do sleep 600; done"
    with pytest.raises(ActionError) as caught:
        shell(command, folder=tmp_path, seconds=0.3)
    assert caught.value.type == "Timeout"
    assert_process_ends(tmp_path / "child")


def test_child_processes_end_with_their_command(tmp_path: Path) -> None:
    assert shell("sleep 600 & echo $! > child; echo done", folder=tmp_path)["stdout"] == "done\n"
    assert_process_ends(tmp_path / "child")


def test_a_process_that_left_the_group_ends_with_the_action(tmp_path: Path) -> None:
    assert shell("setsid sleep 600 & echo $! > child; echo done", folder=tmp_path)["stdout"] == "done\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "child").read_text()), 0)


def assert_process_ends(path: Path) -> None:
    """Wait for the end of the process whose number is in a file."""
    try:
        process = os.pidfd_open(int(path.read_text()))
    except ProcessLookupError:
        return
    try:
        assert select.select([process], [], [], 10)[0]
    finally:
        os.close(process)


def test_the_action_is_disabled_unless_allowed() -> None:
    with pytest.raises(ActionError, match="NOETL_ALLOW_SHELL=1") as caught:
        perform_action("shell", capabilities=Capabilities(), command="true")
    assert (caught.value.type, caught.value.retryable) == ("ActionDisabled", False)
