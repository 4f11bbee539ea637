"""Words of other languages that people write in expressions, and what they are here."""

from __future__ import annotations

import re

NAME_HINTS = dict.fromkeys(("null", "NULL", "Null", "nil", "undefined", "NONE"), "none is written `none`")
TEST_HINTS = {
    **dict.fromkeys(("null", "nil"), "none is written `none`"),
    "empty": "write `not value`, or `value | length == 0`",
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
_OPERATORS = tuple(
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
        (r"(?<![=<>!])=(?!=)", "write `==`, which compares"),
        (r"\$", "names are written without `$`"),
    )
)


def find_operator_hint(source: str, offset: int) -> str | None:
    """What to write for an operator of other languages that stands where an expression was found to be wrong, if one does."""
    for operator, hint in _OPERATORS:
        found = operator.finditer(source, max(offset - 2, 0), offset + 3)
        if any(match.start() <= offset < match.end() for match in found):
            return hint
    return None
