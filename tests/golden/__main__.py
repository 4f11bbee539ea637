"""`python -m tests.golden`: regenerate the expected reports and outputs, and the explanation pages.

Review the changes before you commit them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.golden.cases import cases, pages, regenerate_page, render_report
from tests.golden.command_cases import COMMAND_CASES, COMMANDS_FOLDER, run_case
from tests.postgres import empty_database, running_server

for case in cases():
    case.with_suffix(".txt").write_text(render_report(case), encoding="utf-8")
for page in pages():
    page.write_text(regenerate_page(page), encoding="utf-8")
for output in COMMANDS_FOLDER.glob("*.txt"):
    output.unlink()
with running_server() as server:
    for command_case in COMMAND_CASES:
        with tempfile.TemporaryDirectory() as folder, empty_database(server.dsn) as dsn:
            command_case.path.write_text(run_case(command_case, Path(folder), dsn), encoding="utf-8")
