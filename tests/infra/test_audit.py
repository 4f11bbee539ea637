"""The audit of locked packages: what a report of pip-audit means, and what a missing answer means."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from noetl.infra import audit

PIP_AUDIT = """\
import json, sys
print({output!r})
print("no route to host", file=sys.stderr)
sys.exit({status})
"""


@pytest.fixture
def requirements(tmp_path: Path) -> str:
    path = tmp_path / "requirements.txt"
    path.write_text("a==1.0 \\\n    --hash=sha256:00\n    # via b\nb==2.0 ; python_version < '3.13' \\\n")
    return str(path)


def use_pip_audit(monkeypatch: pytest.MonkeyPatch, folder: Path, output: str, status: int) -> None:
    """Replace pip-audit, whose service is on the internet, by a program with an output."""
    program = folder / "pip_audit.py"
    program.write_text(PIP_AUDIT.format(output=output, status=status))
    monkeypatch.setattr(audit, "COMMAND", (sys.executable, str(program)))


def test_a_vulnerability_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, requirements: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = (
        '{"dependencies": [{"name": "a", "version": "1.0", "vulns": [{"id": "X-1", "fix_versions": []}]}]}'
    )
    use_pip_audit(monkeypatch, tmp_path, output, 1)
    assert audit.main([requirements]) == 1
    assert capsys.readouterr().out == (
        f"{requirements}: 1 packages checked, 1 vulnerabilities\n  a 1.0: X-1, not fixed in any version\n"
    )


def test_a_missing_answer_is_not_called_safe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, requirements: str, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pip_audit(monkeypatch, tmp_path, "", 1)
    assert (audit.main([requirements]), audit.main(["--complete", requirements])) == (0, 1)
    captured = capsys.readouterr()
    assert captured.out.endswith("\n  2 packages not checked: the vulnerability service did not answer\n")
    assert set(captured.err.splitlines()) == {"pip-audit ended with status 1: no route to host"}
