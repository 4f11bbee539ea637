"""Facts about failed expressions in error records."""

from __future__ import annotations

from noetl.executor.engine.failed_expression import MAX_NAMES, describe_expression
from noetl.executor.errors import ActionError
from noetl.planner.templates.template import EvaluationError, parse_template


def raise_lost(name: str) -> object:
    if name == "lost":
        raise EvaluationError("PayloadLost", "gone")
    if name == "refused":
        raise ActionError("Timeout", "late")
    return {"n": 1, "now": lambda: None}[name]


def test_names_have_their_values_and_functions_are_left_out() -> None:
    template = parse_template("{{ n + x.y + lost + refused + secrets.k | length + now() }}")
    assert describe_expression(template, raise_lost)["values"] == {"n": "1", "x.y": "undefined"}


def test_the_number_of_names_and_the_text_are_bounded() -> None:
    names = " + ".join(f"name_{n}" for n in range(30))
    no_names: dict[str, object] = {}
    template = parse_template(f"{{{{ {names} ~ '{'x' * 500}' }}}}")
    described = describe_expression(template, no_names.__getitem__)
    assert len(described["values"]) == MAX_NAMES
    assert len(described["expression"]) == 500
