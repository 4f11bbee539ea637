"""`python -m tests.golden`: regenerate the expected reports of the cases and of the explanation pages.

Review the changes before you commit them.
"""

from __future__ import annotations

from tests.golden.cases import cases, pages, regenerate_page, render_report

for case in cases():
    case.with_suffix(".txt").write_text(render_report(case), encoding="utf-8")
for page in pages():
    page.write_text(regenerate_page(page), encoding="utf-8")
