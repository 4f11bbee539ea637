r"""Encodings of a secret: the forms to search for, and the layers of escapes in a text.

Problem: a secret may appear percent-encoded, as escapes of HTML, JSON or a programming language, in base64 or
in hexadecimal. A writer may escape any of its characters or none, so the forms cannot be listed.

Algorithm: canonical forms. A layer of escapes is undone in the text and in the secret alike, until nothing
changes; then equal values are equal texts. Encodings of bytes have few forms, which are listed. They are
base64 at three offsets (the position in a group of three bytes), base32 at five, hexadecimal, other numbers,
and quoted-printable text. The raw bytes are also encoded twice. Blanks and punctuation may separate the
characters of these forms, and of the secret itself. So they are left out of the text and of the forms. Each
layer knows the positions of its parts in the layer before, so that a finding can be located in the text.

Cost: linear in the text for each layer, at most `MAX_LAYERS`. Positions are computed only on demand. A search
for escapes holds the lock of the interpreter for a part of the text only, whatever the text is.

Limits: other encodings, such as compression, encryption, base58, base85 and ciphers of letters. Three
encodings of bytes, one within another. Numbers that are items of a list instead of one text. Dumps of bytes
with their addresses.
"""

from __future__ import annotations

import base64
import json
import re
from binascii import unhexlify
from bisect import bisect_right
from collections.abc import Callable, Iterator
from html import escape
from html.entities import html5
from itertools import accumulate
from quopri import encodestring
from unicodedata import normalize
from urllib.parse import quote, quote_plus

MAX_LAYERS = 6
"""How often the escapes of a text are undone: JSON in JSON in JSON has three layers."""

PART_BYTES = 16 * 1024
"""How much of a text is searched at once. Between the parts, other threads may run."""
LONGEST_MATCH = 8 * 1024
_MAX_REPEATS = b"1000"
"""How many escapes, signs of a break, or zeros before a number are one match. An escape has six bytes."""

_HEX = rb"[0-9A-Fa-f]"


def _compile(pattern: bytes) -> re.Pattern[bytes]:
    """Return a pattern in which H is a hexadecimal digit, and N the most repeats."""
    return re.compile(pattern.replace(b"H", _HEX).replace(b"N", _MAX_REPEATS))


ESCAPE = _compile(
    rb"[%\\&](?:"
    rb"(?<=%)(?:HH(?:%HH){0,N}|u[dD][89abAB]HH[\\%]u[dD][c-fC-F]HH|uHHHH)"
    rb"|(?<=\\)(?:\\(?:\\\\){0,N}|u00[0-7]H(?:\\u00[0-7]H){0,N}"
    rb"|u[dD][89abAB]HH[\\%]u[dD][c-fC-F]HH|uHHHH|UHHHHHHHH|[ux]\{0{0,N}H{1,6}\}"
    rb"|N\{[uU]\+H{1,6}\}|x[0-7]H(?:\\x[0-7]H){0,N}|x[c-fC-F]H(?:\\x[89abAB]H){1,3}|xHH"
    rb"|[01][0-7]{2}(?:\\[01][0-7]{2}){0,N}|3[0-7]{2}(?:\\2[0-7]{2}){1,3})"
    rb"|(?<=&)(?:#0{0,N}[0-9]{1,7};?|#[xX]0{0,N}H{1,6};?|[A-Za-z][A-Za-z0-9]{1,31};))"
)
"""An escape, or a run of escapes of equal width.

The canonical form has no backslash, so that other escapes with one need no case. The pattern begins with a
set of characters, for which `re` searches twenty times as fast as for the alternatives.
"""

_BREAK = _compile(rb"(?:\\[rn]?|[\x00-*,.:-@\[-^`{-\x7f]){1,N}")
"""What may stand between two characters of base64, of numbers or of a secret: all signs but those of base64.

They are breaks of lines, blanks, quotes, commas, colons, and the equals signs of quoted-printable text.
"""

_BREAKING = bytes(code for code in range(128) if _BREAK.fullmatch(bytes([code])))

_CONTROLS = bytes.maketrans(b"\n\r\t\b\f", b"nrtbf")
_BACKSLASH = re.compile(rb"\\")
_NO_WORD = re.compile(rb"[^A-Za-z0-9!*+/-]")
"""What is escaped in a header of a mail (RFC 2047, section 5)."""
_NO_LETTER = re.compile(rb"[^A-Za-z0-9]")
_HEX_START = re.compile(rb"[0-9A-Fa-f]{2}")

MIN_CASE_LENGTH = 16
"""Shorter secrets are not searched in capitals or small letters, which may be a word of other texts."""

MIN_FORM_LENGTH = 6
"""Shorter forms are not searched. Only secrets with escapes or punctuation have such forms."""

_SEPARATORS = ("-", "_", "/")
"""What separates the numbers of bytes, and is not left out, since base64 may have it."""

_NUMBERS = [list(map(form.format, range(256))) for form in ("{}", "{:o}", "{:03o}")]
"""The numbers of all bytes, by their base."""

Span = tuple[int, int]


class Positions:
    """The positions of a layer in the layer before it. `edits` are (start, end, length of the new text)."""

    def __init__(self, edits: list[tuple[int, int, int]]) -> None:
        self._edits = edits
        removed = accumulate((end - start - length for start, end, length in edits), initial=0)
        self._starts = [start - before for (start, _, _), before in zip(edits, removed, strict=False)]

    def locate(self, span: Span) -> Span:
        """Return the part of the layer before from which a part of the layer was made."""
        return self._locate(span[0], is_end=False), self._locate(span[1] - 1, is_end=True)

    def _locate(self, position: int, *, is_end: bool) -> int:
        index = bisect_right(self._starts, position) - 1
        if index < 0:
            return position + is_end
        start, end, length = self._edits[index]
        offset = position - self._starts[index]
        if offset < length:
            return start + (offset + is_end) * (end - start) // length
        return end + offset - length + is_end


def written_forms(value: str) -> tuple[set[bytes], set[bytes]]:
    """Return the forms of a secret in a text whose escapes are undone, and its forms as base64 and hex.

    >>> plain, encoded = written_forms("correct horse")
    >>> b"correct+horse" in plain, b"636f727265637420686f727365" in encoded
    (True, True)
    """
    raw = _bytes(value)
    doubled = (('"', '""'), ("'", "''"), ("'", "'\"'\"'"), (" ", "+"))
    written = {raw, *(_bytes(value.replace(sign, escape)) for sign, escape in doubled)}
    written |= {*_misread(raw), *_as_latin_1(value), encodestring(raw).replace(b"=\n", b"")}
    written.add(_bytes(value[::-1]))
    written |= {_bytes(normalize(form, value)) for form in ("NFC", "NFD")}
    if len(value) >= MIN_CASE_LENGTH:
        cases = (value.upper(), value.lower(), value.swapcase(), value.title(), value.capitalize())
        written |= {*map(_bytes, cases), raw.upper(), raw.lower(), raw.swapcase()}
    canonical = {to_canonical(list(undo_all(form))[-1]) for form in written}
    plain = {*written, *canonical, *_as_utf16(value), *_as_utf32(value)}
    # A percent sign before it makes an escape of its first two characters.
    plain |= {form[2:] for form in canonical if _HEX_START.match(form) and len(form) >= 10}
    sources = {raw, *_as_utf16(value), json.dumps(value)[1:-1].encode(), quote(raw, safe="").encode()}
    sources.add(_bytes(json.dumps(value, ensure_ascii=False)[1:-1]))
    # PHP escapes slashes in JSON. Some tools write small letters after a percent sign.
    sources |= {source.replace(b"/", b"\\/") for source in sources}
    percent = quote(raw, safe="")
    sources |= {quote(raw).encode(), re.sub("%..", lambda sign: sign[0].lower(), percent).encode()}
    sources |= {_bytes(escape(value)), *_as_latin_1(value), _bytes(value[::-1]), quote_plus(raw).encode()}
    sources |= {value.encode(codec, "surrogatepass") for codec in ("utf-32-le", "utf-32-be")}
    sources |= {_bytes(value.replace(sign, escape)) for sign, escape in doubled}
    encoded = {form for source in sources for form in _as_base64(source)}
    encoded |= {form for source in sources for form in _as_hexadecimal(source)}
    encoded |= {form[::-1] for form in (*_as_base64(raw), *_as_hexadecimal(raw))}
    encoded |= {*_as_base32(raw), *_as_numbers(raw), *_encoded_twice(raw)}
    joined = {join_lines(raw), raw.translate(None, _BREAKING)}
    # `od -c` writes octal numbers for what is not ASCII.
    joined.add(join_lines(b"".join(bytes([byte]) if byte < 128 else b"%03o" % byte for byte in raw)))
    joined |= {form for source in (raw, *_as_latin_1(value)) for form in _as_quoted_printable(source)}
    encoded |= {form for form in joined if not _may_be_word(form, len(value))}
    return {form for form in plain if len(form) >= MIN_FORM_LENGTH}, encoded


def _may_be_word(form: bytes, length: int) -> bool:
    """Return whether other texts may have a form without the signs of a secret, which has this length.

    >>> [_may_be_word(form, 9) for form in (b"password", b"passw0rd", b"passwords")]
    [True, False, False]
    """
    if len(form) < MIN_FORM_LENGTH:
        return True
    return len(form) < min(length, MIN_CASE_LENGTH) and (form.isalpha() or form.isdigit())


def undo_all(data: bytes) -> Iterator[bytes]:
    """Yield the layers of a text: itself, and each text that results if one layer of escapes is undone."""
    yield data
    for _ in range(MAX_LAYERS):
        if not may_have_escapes(data):
            return
        undone = _undo_escapes(data)
        if undone == data:
            return
        data = undone
        yield data


def _undo_escapes(data: bytes) -> bytes:
    # To free a list of millions of parts would hold the lock, too.
    undone = bytearray()
    end = 0
    for match in find_all(ESCAPE, data):
        undone += data[end : match.start()]
        undone += _unescape(match)
        end = match.end()
    return bytes(undone + data[end:])


def may_have_escapes(data: bytes) -> bool:
    """Return whether a text has a character with which an escape begins."""
    return b"%" in data or b"\\" in data or b"&" in data


def to_canonical(data: bytes) -> bytes:
    r"""Return a text without backslashes, in which a line break is an `n`, as it is in `\n`."""
    return data.translate(_CONTROLS, b"\\")


def join_lines(data: bytes) -> bytes:
    r"""Return a text without what breaks or separates the signs of base64. Only such forms are found in it.

    >>> join_lines(rb"[115, 51]\nc2 Vj"), join_lines(b"=73=33")
    (b'11551c2Vj', b'7333')
    """
    if b"\\" in data:
        data = data.replace(b"\\n", b"").replace(b"\\r", b"")
    return data.translate(None, _BREAKING)


def undo_escapes_with_positions(data: bytes) -> tuple[bytes, Positions]:
    """Return a text with one layer of escapes undone, and where its parts come from."""
    return _edit(data, ESCAPE, _unescape)


def to_canonical_with_positions(data: bytes) -> tuple[bytes, Positions]:
    """Return `to_canonical(data)`, and where its parts come from."""
    text, positions = _edit(data, _BACKSLASH, _nothing)
    return text.translate(_CONTROLS), positions


def join_lines_with_positions(data: bytes) -> tuple[bytes, Positions]:
    """Return `join_lines(data)`, and where its parts come from."""
    return _edit(data, _BREAK, _nothing)


def _edit(
    data: bytes, pattern: re.Pattern[bytes], replacement: Callable[[re.Match[bytes]], bytes]
) -> tuple[bytes, Positions]:
    edits: list[tuple[int, int, int]] = []
    parts: list[bytes] = []
    end = 0
    for match in find_all(pattern, data):
        new = replacement(match)
        parts += (data[end : match.start()], new)
        end = match.end()
        edits.append((match.start(), end, len(new)))
    return b"".join((*parts, data[end:])), Positions(edits)


def find_all(pattern: re.Pattern[bytes], data: bytes) -> Iterator[re.Match[bytes]]:
    """Yield the matches of a pattern, none of which is longer than LONGEST_MATCH, in their order."""
    start = 0
    while start < len(data):
        end = following = start + PART_BYTES
        for match in pattern.finditer(data, start, end + LONGEST_MATCH):
            if match.start() >= end:
                break
            yield match
            following = max(end, match.end())
        start = following


def _nothing(match: re.Match[bytes]) -> bytes:
    return b""


def _unescape(match: re.Match[bytes]) -> bytes:
    text = match[0]
    start, kind = text[:1], text[1:2]
    if start == b"&":
        return _unescape_entity(text)
    if start == b"%" and kind != b"u":
        return unhexlify(text.replace(b"%", b""))
    if kind == b"\\":
        return text[: len(text) // 2]
    if text[2:3] == b"{":
        return _character(int(text[3:-1].lstrip(b"uU+"), 16), text)
    if kind == b"x":
        return _to_utf8(unhexlify(text.replace(b"\\x", b"")))
    if kind in b"0123":
        return _to_utf8(bytes(int(digits, 8) for digits in text.split(b"\\")[1:]))
    if kind == b"U":
        return _character(int(text[2:].decode(), base=16), text)
    characters = text.replace(b"%", b"\\").decode("unicode_escape").encode("utf-16-le", "surrogatepass")
    return characters.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")


def _to_utf8(data: bytes) -> bytes:
    """Return bytes that are UTF-8, or else characters of Latin-1 as UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1").encode()
    return data


def _unescape_entity(text: bytes) -> bytes:
    if text[1:2] != b"#":
        name = text[1:].decode()
        return html5[name].encode() if name in html5 else text
    digits = text[2:].rstrip(b";")
    return _character(int(digits[1:], 16) if digits[:1] in b"xX" else int(digits), text)


def _character(code: int, text: bytes) -> bytes:
    return chr(code).encode("utf-8", "surrogatepass") if code <= 0x10FFFF else text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _as_utf16(value: str) -> Iterator[bytes]:
    """Yield the forms of UTF-16 in a text of UTF-8, without the zeros at its ends."""
    for codec in ("utf-16-le", "utf-16-be"):
        data = value.encode(codec, "surrogatepass").strip(b"\0")
        yield data
        yield data.decode("latin-1").encode()


def _as_utf32(value: str) -> Iterator[bytes]:
    """Yield the forms of UTF-32 in a text of UTF-8, without the zeros at its ends."""
    for codec in ("utf-32-le", "utf-32-be"):
        yield value.encode(codec, "surrogatepass").strip(b"\0").decode("latin-1").encode()


def _misread(raw: bytes) -> Iterator[bytes]:
    """Yield the text that a reader makes of UTF-8 if it takes the bytes for Latin-1 or Windows-1252."""
    if not raw.isascii():
        for codec in ("latin-1", "cp1252"):
            yield _bytes(raw.decode(codec, "replace"))


def _as_latin_1(value: str) -> Iterator[bytes]:
    """Yield the bytes of Latin-1, if they exist and differ from UTF-8. Escapes and base64 may have them."""
    if not value.isascii() and max(value) <= "\xff":
        yield value.encode("latin-1")


def _as_base64(data: bytes) -> Iterator[bytes]:
    yield from _aligned(base64.b64encode, data)
    yield from _aligned(base64.urlsafe_b64encode, data)


def _aligned(encode: Callable[[bytes], bytes], data: bytes) -> Iterator[bytes]:
    """Yield the forms of base64 at three offsets."""
    for offset in range(3):
        # Three bytes are four characters. Leave out characters that also hold bits of a neighbour.
        text = encode(b"\0" * offset + data)
        remainder = (offset + len(data)) % 3
        yield text[(0, 2, 3)[offset] : len(text) - (0, 3, 2)[remainder]]


def _as_base32(data: bytes) -> Iterator[bytes]:
    """Yield the forms of base32 at five offsets, in capitals and in small letters."""
    for offset in range(5):
        # Five bytes are eight characters. Leave out characters that also hold bits of a neighbour.
        text = base64.b32encode(b"\0" * offset + data)
        remainder = (offset + len(data)) % 5
        form = text[(0, 2, 4, 5, 7)[offset] : len(text) - (0, 7, 5, 4, 2)[remainder]]
        yield form
        yield form.lower()


def _encoded_twice(data: bytes) -> Iterator[bytes]:
    """Yield base64 and hexadecimal, each within base64 and within hexadecimal."""
    for form in {*_aligned(base64.b64encode, data), *_as_hexadecimal(data)}:
        yield from _aligned(base64.b64encode, form)
        yield from _as_hexadecimal(form)


def _as_numbers(data: bytes) -> Iterator[bytes]:
    """Yield the numbers of the bytes in several bases, as `join_lines` leaves them."""
    for numbers in _NUMBERS:
        yield "".join(map(numbers.__getitem__, data)).encode()
    separated = [data.hex(separator) for separator in _SEPARATORS]
    for text in (*separated, *map(str.upper, separated)):
        yield text.encode()
    for prefix in ("0x", "0X"):
        for text in (data.hex("x"), data.hex("x").upper()):
            yield text.replace("x", prefix).replace("X", prefix).encode()


def _as_quoted_printable(data: bytes) -> Iterator[bytes]:
    """Yield quoted-printable text as `join_lines` leaves it: with few escapes, and as in a header of a mail.

    Text of which each character is escaped is hexadecimal then.
    """
    yield join_lines(encodestring(data))
    yield join_lines(encodestring(data, header=True))
    for escaped in (_NO_WORD, _NO_LETTER):
        yield join_lines(escaped.sub(lambda sign: b"=%02X" % sign[0][0], data).replace(b"=20", b"_"))


def _as_hexadecimal(data: bytes) -> tuple[bytes, bytes]:
    """Return the forms of hexadecimal in small letters and in capitals."""
    return data.hex().encode(), data.hex().upper().encode()
