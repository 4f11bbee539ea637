"""Commands of a service: nothing outlives them, and they see nothing of the service."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from noetl.executor.errors import ActionError, CancelledError, SettingError
from noetl.executor.security.capabilities import Capabilities, service_capabilities
from noetl.testing.actions import ActionTester
from tests.action_calls import perform_action

STANDARD_LIBRARY = Path(os.__file__).resolve()
IS_PYTHON_READABLE = all(path.stat().st_mode & 0o005 == 0o005 for path in STANDARD_LIBRARY.parents)
"""Whether users other than the owner may use this Python."""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl and /proc of Linux")


def service(folder: Path, **limits: int) -> Capabilities:
    return Capabilities(folder=folder, shell=True, command_limits=tuple(limits.items()))


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (0, 1, 2):
            os.close(number)
        with open("daemon", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
while not (os.path.exists("daemon") and os.path.getsize("daemon")):
    time.sleep(0.01)
"""


@linux
@pytest.mark.parametrize("ending", ["", "; exit 3", "; sleep 600", "; kill -9 $$"])
def test_a_daemon_does_not_outlive_its_step(tmp_path: Path, ending: str) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    command = f"{sys.executable} daemon.py{ending}"
    if ending:
        with pytest.raises(ActionError):
            perform_action("shell", capabilities=service(tmp_path), command=command, seconds=5)
    else:
        perform_action("shell", capabilities=service(tmp_path), command=command)
    assert not is_alive(int((tmp_path / "daemon").read_text()))


@linux
@pytest.mark.parametrize("ending", ["", "; exec sleep 600"])
def test_a_daemon_does_not_outlive_a_supervisor_that_its_command_has_killed(
    tmp_path: Path, ending: str
) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    command = f"echo $$ > leader; {sys.executable} daemon.py; kill -KILL $PPID{ending}"
    with pytest.raises(ActionError, match="SIGKILL"):
        perform_action("shell", capabilities=service(tmp_path), command=command)
    for name in ("daemon", "leader"):
        assert not is_alive(int((tmp_path / name).read_text()))


@linux
def test_other_commands_and_children_outlive_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    other: list[object] = []

    def perform_other() -> None:
        command = "touch began; while [ ! -e ended ]; do sleep 0.05; done; echo done"
        other.append(perform_action("shell", capabilities=service(tmp_path), command=command))

    thread = threading.Thread(target=perform_other)
    thread.start()
    try:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        with pytest.raises(ActionError, match="SIGKILL"):
            perform_action("shell", capabilities=service(tmp_path), command="kill -KILL $PPID")
        assert child.poll() is None
    finally:
        (tmp_path / "ended").touch()
        thread.join()
        child.kill()
        child.wait()
    assert other == [{"exit_code": 0, "stdout": "done\n", "stderr": ""}]


@linux
def test_a_supervisor_that_its_command_has_stopped_ends_in_time(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ActionError) as caught:
        perform_action(
            "shell",
            capabilities=service(tmp_path),
            seconds=0.5,
            command="kill -STOP $PPID; trap '' TERM; while :; do sleep 1; done",
        )
    assert caught.value.type == "Timeout"
    assert time.monotonic() - started < 8


@linux
def test_a_daemon_ends_with_a_cancelled_run(tmp_path: Path) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    tester = ActionTester("shell", service(tmp_path), seconds=600)

    def cancel() -> None:
        until = time.monotonic() + 60
        while not (tmp_path / "daemon").exists() and time.monotonic() < until:
            time.sleep(0.02)
        tester.cancelled.set()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(CancelledError):
        tester.perform({"command": f"{sys.executable} daemon.py; sleep 600"})
    canceller.join()
    assert not is_alive(int((tmp_path / "daemon").read_text()))


@linux
def test_a_command_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = """
        import sys, threading, time
        from pathlib import Path
        from tests.action_calls import perform_action
        from noetl.executor.security.capabilities import Capabilities
        folder = Path(sys.argv[1])
        capabilities = Capabilities(folder=folder, shell=True)
        perform_action("shell", capabilities=capabilities, command="echo $$ > pid; sleep 600", seconds=600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)])
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    command = int((tmp_path / "pid").read_text())
    assert is_alive(command)
    process.kill()
    process.wait()
    while is_alive(command):
        assert time.monotonic() < until
        time.sleep(0.02)


@linux
@pytest.mark.skipif(os.getuid() == 0 and not IS_PYTHON_READABLE, reason="only root may read this Python")
def test_a_command_cannot_read_the_environment_or_memory_of_the_service(tmp_path: Path) -> None:
    """The service of the test runs as an ordinary user, because root may read everything."""
    script = """
        import ctypes, os
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            # A change of the user hides a process as well. Undo this, as the start of a program would.
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
        from pathlib import Path
        from tests.action_calls import perform_action
        from noetl.executor.security.capabilities import Capabilities
        capabilities = Capabilities(folder=Path("/tmp"), shell=True)
        service = os.getpid()
        for name in ("environ", "mem", "maps", "fd"):
            command = f"cat /proc/{service}/{name} || ls /proc/{service}/{name}/"
            try:
                print(perform_action("shell", capabilities=capabilities, command=command)["stdout"])
            except Exception as error:
                print(type(error).__name__, error.details["exit_code"])
        command = "cat /proc/self/environ; env"
        print(perform_action("shell", capabilities=capabilities, command=command)["stdout"])
    """
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "NOETL_SECRET_TOKEN": "the-canary-of-the-service"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    is_unreadable = any(name in completed.stderr for name in ("PermissionError", "ModuleNotFoundError"))
    if is_unreadable and "ActionError" not in completed.stdout:
        pytest.skip("an ordinary user cannot read this checkout")
    assert completed.stdout.count("ActionError") == 4, completed.stderr
    assert "the-canary" not in completed.stdout


@linux
def test_the_limits_of_the_operator_hold(tmp_path: Path) -> None:
    capabilities = service(tmp_path, RLIMIT_CORE=0, RLIMIT_FSIZE=1024 * 1024, RLIMIT_DATA=256 * 1024 * 1024)
    result = perform_action("shell", capabilities=capabilities, command="ulimit -c; ulimit -f; ulimit -d")
    assert result["stdout"].split() == ["0", "2048", "262144"] or result["stdout"].split()[0] == "0"
    with pytest.raises(ActionError):
        perform_action("shell", capabilities=capabilities, command="dd if=/dev/zero of=big bs=1M count=10")
    assert (tmp_path / "big").stat().st_size == 1024 * 1024
    command = [sys.executable, "-c", "x = bytearray(1024 * 1024 * 1024)"]
    with pytest.raises(ActionError, match="MemoryError"):
        perform_action("shell", capabilities=capabilities, command=command)


def test_a_service_has_limits_by_default() -> None:
    environ = {"NOETL_ALLOW_SHELL": "1", "NOETL_COMMAND_MEMORY": "7"}
    limits = dict(service_capabilities(environ).command_limits)
    assert limits["RLIMIT_DATA"] == 7 * 1024 * 1024
    assert limits.keys() == {"RLIMIT_CORE", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NPROC"}
    with pytest.raises(SettingError, match="NOETL_COMMAND_PROCESSES"):
        service_capabilities({"NOETL_COMMAND_PROCESSES": "many"})


def test_a_large_environment_and_input_reach_the_command(tmp_path: Path) -> None:
    env = {f"V{number}": "x" * 10_000 for number in range(20)}
    result = perform_action(
        "shell", capabilities=service(tmp_path), command="env | wc -c; wc -c", env=env, stdin="y" * 500_000
    )
    sizes = [int(word) for word in result["stdout"].split()]
    assert sizes[0] > 200_000
    assert sizes[1] == 500_000
