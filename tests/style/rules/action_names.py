"""The name of an action type is written in the file of the type, and nowhere else in the packages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from tests.style.rule import StyleRule, StyleViolation
from tests.style.source import PACKAGES, ROOT, Repository

_OWN_FILE = re.compile(r"executor/actions/_?(?P<name>[a-z0-9]+)(_\w*)?\.py")
"""The file of a type, and the private modules whose names start with the type."""

_JSON_KEY = "a key"

_OWNER_OF_TYPES = re.compile("catalogue|action_types|declarations|handler")
"""What is asked for an action type, so that every word is one."""

ACTION_TYPES = frozenset(
    path.stem.rstrip("_") for path in ROOT.glob("executor/actions/[a-z]*.py") if path.stem != "action"
)


class OtherMeaning(NamedTuple):
    """A word that has the letters of a type, and a pattern of what it is compared with or assigned to."""

    word: str
    context: str
    reason: str

    def covers(self, word: str, context: str) -> bool:
        """Return whether this is the meaning of a word in a context."""
        return word == self.word and fnmatchcase(context, self.context)


OTHER_MEANINGS = (
    OtherMeaning("message", _JSON_KEY, "errors, problem documents and log lines have messages"),
    OtherMeaning("message", "a collection", "an attribute of errors"),
    OtherMeaning("message", "error*", "an attribute of errors"),
    OtherMeaning("file", _JSON_KEY, "reports name the file of a diagnostic"),
    OtherMeaning("wait", _JSON_KEY, "tokens and journals hold the id of a wait"),
    OtherMeaning("wait", "_DURATION_BOUNDS", "how long the sender of a webhook waits"),
    OtherMeaning("wait", "a collection", "a key of webhooks"),
    OtherMeaning("wait", "trigger.model_fields_set", "a key of webhooks"),
    OtherMeaning("wait", "name.strip().lower()", "the preference of the HTTP header Prefer"),
    OtherMeaning("http", "*scheme*", "the scheme of a URL"),
    OtherMeaning("http", "scope*", "the kind of a connection in ASGI"),
    OtherMeaning("postgres", "scheme", "the scheme of the address of a store"),
    OtherMeaning("lambda", "service", "a service of AWS"),
    OtherMeaning("lambda", "LAMBDA", "a target of compilation"),
    OtherMeaning("lambda", "LONGEST_INVOCATION_SECONDS", "a target of compilation"),
    OtherMeaning("callback", "RESERVED_NAMES", "a word of templates"),
    OtherMeaning("shell", "SHELL", "the language of a sink"),
    OtherMeaning("set", "_TAGS", "a tag of templates"),
    OtherMeaning("set", "alias=", "the values that a request to resume a run gives"),
    OtherMeaning("set", "GIVEN_MEMBER", "the values that a request to resume a run gives"),
    OtherMeaning("lambda", "_FOREIGN_WORDS", "a word of Python"),
    *(
        OtherMeaning("s3", context, "a type of triggers")
        for context in (
            "CONSTRUCTS",
            "EVENT_KINDS",
            "TRIGGER_ATTRIBUTES",
            "TRIGGER_MODELS",
            "_DEFINITIONS",
            "_SOURCES",
            "a collection",
            _JSON_KEY,
        )
    ),
)


class WrittenWord(NamedTuple):
    """A string constant, and what it is compared with, assigned to or used as."""

    node: ast.Constant
    context: str


def find(repository: Repository) -> Iterator[StyleViolation]:
    """Yield each string that is compared, matched, used as a key or kept as if it was the name of a type."""
    for file in repository.python(*PACKAGES):
        own_file = _OWN_FILE.fullmatch(file.path)
        seen: set[ast.AST] = set()
        for word, context in (written for node in file.nodes for written in find_words(node)):
            if word in seen:
                continue
            seen.add(word)
            is_own = own_file is not None and own_file["name"] == word.value
            if word.value in ACTION_TYPES and not is_own and not _has_other_meaning(str(word.value), context):
                problem = f"`{word.value}` is written as the name of an action type: {context}"
                yield StyleViolation(file.path, word.lineno, problem, file.path)


def _has_other_meaning(word: str, context: str) -> bool:
    return any(other.covers(word, context) for other in OTHER_MEANINGS)


def find_words(node: ast.AST) -> Iterator[WrittenWord]:
    """Yield the strings directly in a node that may be names of types. A parent comes before its children."""
    match node:
        case ast.Compare():
            operands = [node.left, *node.comparators]
            for operand in operands:
                compared = (ast.unparse(other) for other in operands if other is not operand)
                yield from _words_in(operand, ", ".join(compared))
        case ast.Match():
            patterns = (part for case in node.cases for part in ast.walk(case.pattern))
            values = (part.value for part in patterns if isinstance(part, ast.MatchValue))
            yield from (word for value in values for word in _words_in(value, ast.unparse(node.subject)))
        case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)):
            yield from _words_in(node.value, target) if target.isupper() else ()
        case ast.Dict():
            yield from _words_in(node, "a table" if _is_table(node) else _JSON_KEY)
        case ast.Set() | ast.List() | ast.Tuple():
            yield from _words_in(node, "a collection")
        case (
            ast.Subscript(value=owner, slice=key)
            | ast.Call(func=ast.Attribute(value=owner, attr="get" | "pop"), args=[key, *_])
            | ast.Call(func=ast.Name(id="handler") as owner, args=[key])
        ):
            names_type = _OWNER_OF_TYPES.search(ast.unparse(owner)) is not None
            yield from _words_in(key, "a search of a type" if names_type else _JSON_KEY)
        case ast.keyword(value=ast.Constant()):
            yield from _words_in(node.value, f"{node.arg}=")
        case ast.arguments():
            defaults = (*node.defaults, *node.kw_defaults)
            yield from (word for default in defaults for word in _words_in(default, "a default"))


def _is_table(node: ast.Dict) -> bool:
    """Return whether a mapping has only names of types as keys, and at least two."""
    keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
    return len(keys) > 1 and all(key in ACTION_TYPES for key in keys)


def _words_in(node: ast.expr | None, context: str) -> Iterator[WrittenWord]:
    """Yield the string that a node is, the items of a collection, or the keys of a mapping."""
    match node:
        case ast.Constant(value=str()):
            yield WrittenWord(node, context)
        case ast.Set(elts=items) | ast.List(elts=items) | ast.Tuple(elts=items) | ast.Dict(keys=items):
            words = [item for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]
            if isinstance(node, ast.Dict) or len(words) == len(items):
                yield from (WrittenWord(word, context) for word in words)
        case ast.Call(func=ast.Name(id="frozenset" | "set" | "tuple" | "list" | "dict"), args=[argument]):
            yield from _words_in(argument, context)


RULE = StyleRule("action-names", find, "ask the declaration of the type (`noetl.planner.catalogue`)")
