"""Where in an address a template stands: what its checks and its rendering go by. Standard library only."""

from __future__ import annotations

import re
from enum import StrEnum


class UrlComponent(StrEnum):
    """The part of an address a template stands in. What stands in the origin may be the whole address."""

    ORIGIN = "origin"
    PATH = "path"
    QUERY = "query"
    FRAGMENT = "fragment"


class UrlLexer:
    """Reads an address; `component` is where the next piece of it begins."""

    def __init__(self) -> None:
        self.component = UrlComponent.ORIGIN

    def feed(self, text: str) -> None:
        """Move past literal text."""
        if self.component is UrlComponent.ORIGIN:
            scheme, slashes, rest = text.partition("://")
            text = rest if slashes and not re.search(r"[/?#]", scheme) else text
            start = re.search(r"[/?#]", text)
            if start is None:
                return
            self.component = UrlComponent.PATH
            text = text[start.start() :]
        if self.component is UrlComponent.PATH and "?" in text.partition("#")[0]:
            self.component = UrlComponent.QUERY
        if "#" in text:
            self.component = UrlComponent.FRAGMENT
