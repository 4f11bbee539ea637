"""The header `Content-Type` (RFC 9110, section 8.3): a media type with its parameters.

Problem: the other side writes the header. A parser for e-mail reads numbered parts of parameters, too
(RFC 2231). It fails if such a number has thousands of digits, and HTTP has no such parts.

Algorithm: the parameters are found by a regular expression, from left to right. What is no parameter is
skipped.

Cost: linear in the length of the header.

Limits: only the parameter `charset` is read. Of several, the first counts.
"""

from __future__ import annotations

import re

from noetl.planner.frozen import frozen

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf"[ \t]*({_TOKEN}/{_TOKEN})[ \t]*(?:;|\Z)")
_PARAMETER = re.compile(rf';[ \t]*({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*+")')


@frozen
class ContentType:
    """The media type and the charset of a body, both in lower case. Each is empty if it is not given."""

    media_type: str = ""
    charset: str = ""


def parse_content_type(text: str) -> ContentType:
    """Return what a header says, or an empty value if its media type is malformed.

    >>> parse_content_type('Text/HTML; q=";"; charset="UTF-8"')
    ContentType(media_type='text/html', charset='utf-8')
    >>> parse_content_type("text; charset=utf-8")
    ContentType(media_type='', charset='')
    """
    match = _MEDIA_TYPE.match(text)
    if match is None:
        return ContentType()
    parameters = _PARAMETER.findall(text[match.end(1) :])
    charsets = [value for name, value in parameters if name.lower() == "charset"]
    charset = charsets[0].strip('"').lower() if charsets else ""
    return ContentType(match[1].lower(), charset)
