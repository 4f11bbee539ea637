"""`python -m tests.golden`: write anew what is told of the playbooks, to be read before it is kept."""

from __future__ import annotations

from tests.golden.cases import cases, told

for case in cases():
    case.with_suffix(".txt").write_text(told(case), encoding="utf-8")
