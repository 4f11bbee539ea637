"""Hints for words and operators of other languages that authors write in expressions."""

from __future__ import annotations

import re

NAME_HINTS = dict.fromkeys(("null", "NULL", "Null", "nil", "undefined", "NONE"), "write `none`")
SHELL_VARIABLE_HINT = (
    'to pass a variable of the shell, declare an input and run the playbook with `-i home="$HOME"`'
)
TEST_HINTS = {
    **dict.fromkeys(("null", "nil"), "write `none`"),
    "empty": "write `not value`, or `value | length == 0`",
    **dict.fromkeys(
        ("match", "regex", "search", "contains", "startswith", "endswith"),
        'filter the items of a `loop` with `if: "{{ item.name | regex_search(pattern) }}"`',
    ),
}
FUNCTION_HINTS = {
    "len": "write `value | length`",
    "str": "write `value | string`",
    "bool": "write `true if value else false`",
    "sorted": "write `value | sort`",
    "reversed": "write `value | reverse`",
    "json": "write `value | tojson`",
    "defined": "write `name is defined`",
}
METHOD_HINTS = {
    "append": "write `list + [value]`",
    "extend": "write `list + list`",
    "format": "join texts with `~`",
    "length": "write `value | length`",
    "size": "write `value | length`",
}
FILTER_HINTS = {
    "bool": "write `true if value else false`",
    "to_json": "write `tojson`",
    "from_json": "write `fromjson`",
    "json": "write `tojson`",
    "len": "write `length`",
    "size": "write `length`",
}
GUARD_HINTS = {
    **dict.fromkeys(("else", "otherwise", "always", "true"), "write `default`"),
    **dict.fromkeys(("failed", "failure", "on_error"), "write `error`"),
    **dict.fromkeys(("success", "succeeded"), 'write `"{{ result.success }}"`'),
}
_OPERATOR_HINTS = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in (
        (r"&&", "write `and`"),
        (r"\|\|", "write `or`"),
        (r"!==", "write `!=`"),
        (r"===", "write `==`"),
        (r"!(?!=)", "write `not`"),
        (r"\?\?", "write `value | default(other)`"),
        (r"<>", "write `!=`"),
        (r"\?", "write `a if condition else b`"),
        (r"(?<![=<>!])=(?!=)", "write `==` to compare"),
        (r"\$", "write the name without `$`"),
    )
)


def find_operator_hint(source: str, offset: int) -> str | None:
    """Return the hint for an operator of another language at the offset of a syntax error, or None."""
    for operator, hint in _OPERATOR_HINTS:
        matches = operator.finditer(source, max(offset - 2, 0), offset + 3)
        if any(match.start() <= offset < match.end() for match in matches):
            return hint
    return None
