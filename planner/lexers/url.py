"""The component of a URL that contains a template. Standard library only.

Problem: checks and rendering must know the component of each template. A value is encoded differently in the
path and in the query, and a value in the origin may be the whole URL.

Algorithm: a finite-state lexer with the delimiters of RFC 3986, section 3. It moves from origin to path,
query and fragment, and never back. The caller feeds the literal text between two templates.

Cost: O(length of the text).

Limits: the origin is not divided into scheme, user, host and port.
"""

from __future__ import annotations

import re
from enum import StrEnum


class UrlComponent(StrEnum):
    """A component of a URL. The origin includes the scheme; a template there may be the whole URL."""

    ORIGIN = "origin"
    PATH = "path"
    QUERY = "query"
    FRAGMENT = "fragment"


class UrlLexer:
    """The state of the lexer after the text that was fed. `component` contains the next character.

    >>> lexer = UrlLexer()
    >>> lexer.feed("https://example.com/a?b=")
    >>> lexer.component.value
    'query'
    """

    def __init__(self) -> None:
        self.component = UrlComponent.ORIGIN

    def feed(self, text: str) -> None:
        """Move past literal text."""
        if self.component is UrlComponent.ORIGIN:
            scheme, separator, rest = text.partition("://")
            text = rest if separator and not re.search(r"[/?#]", scheme) else text
            start = re.search(r"[/?#]", text)
            if start is None:
                return
            self.component = UrlComponent.PATH
            text = text[start.start() :]
        if self.component is UrlComponent.PATH and "?" in text.partition("#")[0]:
            self.component = UrlComponent.QUERY
        if "#" in text:
            self.component = UrlComponent.FRAGMENT
