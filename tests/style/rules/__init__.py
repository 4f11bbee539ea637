"""Every style rule."""

from __future__ import annotations

from tests.style.rule import StyleRule
from tests.style.rules import (
    action_names,
    class_names,
    docstring_openers,
    function_size,
    line_length,
    retired_terms,
    sentence_length,
    theory,
    vague_names,
)

RULES: tuple[StyleRule, ...] = (
    class_names.RULE,
    retired_terms.IDENTIFIERS,
    retired_terms.PROSE,
    vague_names.RULE,
    docstring_openers.RULE,
    sentence_length.RULE,
    line_length.RULE,
    function_size.LENGTH,
    function_size.PARAMETERS,
    function_size.COMPLEXITY,
    theory.RULE,
    action_names.RULE,
)
