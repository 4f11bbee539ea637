"""Secrets are redacted in every encoding, at any depth, and without harm to the text around them."""

from __future__ import annotations

import base64
import html
import json
import random
import re
from collections.abc import Callable
from quopri import encodestring
from typing import Any
from unicodedata import normalize
from urllib.parse import quote, quote_plus

import pytest

from noetl.executor.security.encodings import ESCAPE, LONGEST_MATCH, PART_BYTES, find_all, undo_all
from noetl.executor.security.redaction import MASK, RevealedSecrets

SECRETS = {
    "password": 's3cret/"väl ue"+\\x',
    "plain": "correct-horse-battery",
    "digits": "493827165029",
    "percent": "100%25+sure&amp;quiet",
    "backslash": "C:\\new\\table2\\",
    "emoji": "pässwörd-€-😀",
    "lines": "-----BEGIN-----\nMIIEvQIBADANBgkq/hkiG9w0\n-----END-----\n",
    "long": "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz0123456789+/", k=400)),
}


def _partly(escape: Callable[[str], str]) -> Callable[[str], str]:
    """Return an encoder that escapes every other character, and all that must be escaped."""
    return lambda text: "".join(
        escape(sign) if index % 2 or sign in '%&\\"\n' else sign for index, sign in enumerate(text)
    )


def _json_escape(sign: str) -> str:
    return "".join(f"\\u{unit:04x}" for unit in memoryview(sign.encode("utf-16-le")).cast("H"))


def _latin_1(text: str) -> bytes:
    return text.encode("latin-1" if max(text) <= "\xff" else "utf-8")


def _in_header(text: str) -> str:
    escaped = re.sub(rb"[^A-Za-z0-9!*+/-]", lambda sign: b"=%02X" % sign[0][0], text.encode())
    return f"=?utf-8?Q?{escaped.decode().replace('=20', '_')}?="


def _upper_json_escape(sign: str) -> str:
    return "\\u" + _json_escape(sign)[2:].replace("\\u", "|").upper().replace("|", "\\u")


ENCODERS: dict[str, Callable[[str], str]] = {
    "unchanged": str,
    "percent": lambda text: quote(text, safe=""),
    "percent in lower case": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "percent in part": _partly(lambda sign: quote(sign, safe="") if sign in "%&" else _percent(sign)),
    "form": quote_plus,
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "named entities": html.escape,
    "decimal entities": _partly(lambda sign: f"&#{ord(sign)};"),
    "hexadecimal entities": _partly(lambda sign: f"&#x{ord(sign):x};"),
    "json": json.dumps,
    "json with solidus": lambda text: json.dumps(text).replace("/", "\\/"),
    "json escapes": _partly(_json_escape),
    "json escapes in upper case": _partly(_upper_json_escape),
    "json in json": lambda text: json.dumps(json.dumps({"a": text})),
    "json in json in json": lambda text: json.dumps(json.dumps(json.dumps([text]))),
    "json in percent": lambda text: quote(json.dumps(text)),
    "json in entities": lambda text: html.escape(json.dumps(text)),
    "repr": repr,
    "csv": lambda text: '"' + text.replace('"', '""') + '"',
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, second place": lambda text: base64.b64encode(b"a" + text.encode()).decode(),
    "base64, third place": lambda text: base64.b64encode(b"ab" + text.encode() + b"c").decode(),
    "url-safe base64": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 of json": lambda text: base64.b64encode(json.dumps({"k": text}).encode()).decode(),
    "base64 in lines": lambda text: base64.encodebytes(b"x" * 50 + text.encode()).decode(),
    "base64 in lines in json": lambda text: json.dumps(base64.encodebytes(text.encode() * 2).decode()),
    "base64 in percent": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal in upper case": lambda text: text.encode().hex().upper(),
    "hexadecimal with colons": lambda text: text.encode().hex(":"),
    "utf-16": lambda text: text.encode("utf-16-le").decode("latin-1"),
    "entities without semicolons": lambda text: "".join(f"&#{ord(sign)}" for sign in text),
    "hexadecimal entities without semicolons": lambda text: "".join(f"&#x{ord(sign):X}" for sign in text),
    "percent of a script": lambda text: "".join(map(_json_escape, text)).replace("\\u", "%u"),
    "escapes of eight digits": _partly(lambda sign: f"\\U{ord(sign):08x}"),
    "octal escapes": _partly(lambda sign: "".join(f"\\{byte:03o}" for byte in sign.encode())),
    "escaped bytes": lambda text: repr(text.encode())[2:-1],
    "all bytes escaped": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "quoted-printable": lambda text: encodestring(text.encode()).decode().replace("=\n", ""),
    "quoted-printable in lines": lambda text: encodestring(b"x" * 70 + text.encode()).decode(),
    "quoted-printable, all escaped": lambda text: "".join(f"={byte:02X}" for byte in text.encode()),
    "quoted-printable in a header": _in_header,
    "entities with zeros": lambda text: "".join(f"&#{ord(sign):012};" for sign in text),
    "hexadecimal entities with zeros": lambda text: "".join(f"&#x{ord(sign):012x};" for sign in text),
    "escapes with zeros": lambda text: "".join(f"\\u{{{ord(sign):08x}}}" for sign in text),
    "escapes of Perl": lambda text: "".join(f"\\x{{{ord(sign):04x}}}" for sign in text),
    "hexadecimal with blanks": lambda text: text.encode().hex(" "),
    "hexadecimal with hyphens": lambda text: text.encode().hex("-").upper(),
    "hexadecimal with underscores": lambda text: text.encode().hex("_"),
    "hexadecimal with commas": lambda text: text.encode().hex(","),
    "hexadecimal of C": lambda text: ", ".join(f"0x{byte:02x}" for byte in text.encode()),
    "hexadecimal of C in lines": lambda text: ",\n".join(f"0x{byte:02X}" for byte in text.encode()),
    "numbers with blanks": lambda text: " ".join(map(str, text.encode())),
    "numbers in lines": lambda text: "\n".join(map(str, text.encode())),
    "a dump of characters": lambda text: "   ".join(
        chr(byte) if byte < 128 else f"{byte:o}" for byte in text.encode()
    ),
    "octal numbers": lambda text: " ".join(f"{byte:03o}" for byte in text.encode()),
    "blanks between the characters": " ".join,
    "full stops between the characters": ".".join,
    "a list of characters": lambda text: json.dumps(list(text)),
    "wrapped lines": lambda text: re.sub("(?s).{7}", r"\g<0>\r\n  ", text),
    "escapes of PowerShell": lambda text: re.sub(r"([\"$`])", r"`\1", text),
    "base64 reversed": lambda text: base64.b64encode(text.encode()).decode()[::-1],
    "base64 of the reversed": lambda text: base64.b64encode(text[::-1].encode()).decode(),
    "base64 of a form": lambda text: base64.b64encode(quote_plus(text).encode()).decode(),
    "base64 of csv": lambda text: base64.b64encode(text.replace('"', '""').encode()).decode(),
    "base64 of utf-32": lambda text: base64.b64encode(text.encode("utf-32-le")).decode(),
    "decomposed": lambda text: normalize("NFD", text),
    "misread as latin-1": lambda text: text.encode().decode("latin-1"),
    "misread as windows-1252": lambda text: text.encode().decode("cp1252", "replace"),
    "percent of latin-1": lambda text: quote(_latin_1(text), safe=""),
    "base64 of latin-1": lambda text: base64.b64encode(_latin_1(text)).decode(),
    "base64 of utf-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
    "base32, second place": lambda text: base64.b32encode(b"a" + text.encode()).decode(),
    "base32, third place": lambda text: base64.b32encode(b"ab" + text.encode() + b"c").decode(),
    "base32, fourth place": lambda text: base64.b32encode(b"abc" + text.encode() + b"cd").decode(),
    "base32, fifth place": lambda text: base64.b32encode(b"abcd" + text.encode() + b"cde").decode(),
    "base32 in small letters": lambda text: base64.b32encode(text.encode()).decode().lower(),
    "base32 in lines": lambda text: re.sub(".{20}", r"\g<0>\n", base64.b32encode(text.encode()).decode()),
    "base64 twice": lambda text: base64.b64encode(base64.b64encode(text.encode())).decode(),
    "base64 twice, at other places": lambda text: base64.b64encode(
        b"a" + base64.b64encode(b"ab" + text.encode())
    ).decode(),
    "hexadecimal of base64": lambda text: base64.b64encode(text.encode()).hex(),
    "capital hexadecimal of base64": lambda text: base64.b64encode(text.encode()).hex().upper(),
    "hexadecimal twice": lambda text: text.encode().hex().encode().hex(),
    "base64 of the JSON of PHP": lambda text: base64.b64encode(
        json.dumps(text).replace("/", "\\/").encode()
    ).decode(),
    "base64 of entities": lambda text: base64.b64encode(html.escape(text).encode()).decode(),
    "base64 of percent signs": lambda text: base64.b64encode(
        re.sub("%..", lambda sign: sign[0].lower(), quote(text, safe="")).encode()
    ).decode(),
    "base64 of hexadecimal": lambda text: base64.b64encode(text.encode().hex().encode()).decode(),
    "numbers of bytes": lambda text: str(list(text.encode())),
    "numbers of bytes in lines": lambda text: json.dumps(list(text.encode()), indent=2),
    "reversed": lambda text: text[::-1],
    "reversed json": lambda text: json.dumps(text[::-1]),
    "utf-32": lambda text: text.encode("utf-32-le").decode("latin-1"),
    "hexadecimal of utf-16": lambda text: text.encode("utf-16-be").hex(),
}


def _percent(sign: str) -> str:
    return "".join(f"%{byte:02x}" for byte in sign.encode())


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_redacted_in_every_encoding(kind: str, encoder: str) -> None:
    revealed = RevealedSecrets()
    revealed.add(SECRETS[kind])
    encoded = ENCODERS[encoder](SECRETS[kind])
    before, after = "täg: {", "} & 100 % \\ end"
    redacted = revealed.redact(before + encoded + after)
    assert MASK in redacted
    assert redacted.startswith(before) and redacted.endswith(after)
    rest = redacted.removeprefix(before).removesuffix(after).replace(MASK, "")
    # Quotes, keys and what base64 mixes with its neighbours may stay. Short lines of a key stay as well.
    assert len(rest) <= 80 and SECRETS[kind][:12] not in rest


FILLERS = ("m", "täg: {} & 100 % \\ end\n", "%2525", "\\\\u005c")


@pytest.mark.parametrize("kind", SECRETS)
def test_a_head_that_is_clean_needs_no_search_of_the_rest(kind: str) -> None:
    """A head is only returned if it is that of the redacted text, wherever a secret crosses its end."""
    revealed = RevealedSecrets()
    revealed.add(SECRETS[kind])
    found, reach = 0, revealed.reach
    for number, encoder in enumerate(ENCODERS.values()):
        encoded, filler = encoder(SECRETS[kind]), FILLERS[number % len(FILLERS)]
        text = filler * 20 + encoded + filler * (2 * reach // len(filler))
        redacted = revealed.redact(text)
        begin = 20 * len(filler)
        for place in (begin - 8, begin + 1, begin + len(encoded) // 2, begin + len(encoded) - 1):
            assert revealed.find_clean_head(text, place) in (None, redacted[:place])
        found += revealed.find_clean_head(filler * (3 * reach // len(filler)), 10) is not None
    assert found > len(ENCODERS) // 2


def test_a_head_with_a_secret_or_with_many_blanks_after_it_is_not_clean() -> None:
    revealed = RevealedSecrets()
    assert (revealed.reach, revealed.find_clean_head("correct-horse", 4)) == (0, "corr")
    revealed.add("correct-horse")
    assert revealed.find_clean_head("correct", 4) == "corr"
    assert revealed.find_clean_head("m" * 100_000 + "correct-horse", 4) == "mmmm"
    assert revealed.find_clean_head("correct-horse", 4) is None
    # The rest of the secret may follow the blanks: breaks of lines are left out.
    base64_secret = base64.b64encode(b"correct-horse").decode()
    text = base64_secret[:6] + " " * 100_000 + base64_secret[6:]
    assert revealed.find_clean_head(text, 6) is None
    assert revealed.redact(text).startswith(MASK)


@pytest.mark.parametrize(
    "text", ["100 %", "a&b;c", "\\", "%zz", "&nosuch;", "&#99999999;", "\\ud800", "\\u{110000}", "\0"]
)
def test_text_that_is_no_escape_stays(text: str) -> None:
    revealed = RevealedSecrets()
    revealed.add("correct-horse")
    assert revealed.redact(text) is text
    assert revealed.redact(f"{text} correct%2Dhorse {text}") == f"{text} {MASK} {text}"


@pytest.mark.parametrize("change", [str.upper, str.lower, str.swapcase, str.title, str.capitalize])
def test_a_long_secret_is_redacted_in_other_cases(change: Callable[[str], str]) -> None:
    revealed = RevealedSecrets()
    revealed.add("correct-HORSE-battery")
    revealed.add("Production")
    assert revealed.redact(change("correct-HORSE-battery")) == MASK
    # A short one may be a word of another text.
    changed = change("Production")
    assert revealed.redact(changed) == (MASK if changed == "Production" else changed)


def test_the_words_of_a_secret_are_no_secret() -> None:
    revealed = RevealedSecrets()
    revealed.add("a, b: c; d. e")
    assert revealed.redact("abcde a b c d e") == "abcde a b c d e"


def test_secrets_that_overlap_leave_nothing() -> None:
    revealed = RevealedSecrets()
    for value in ("abcdefgh1", "efgh1jklm", "h1jklmnop"):
        revealed.add(value)
    assert revealed.redact("<abcdefgh1jklmnop>") == f"<{MASK}>"


def test_secrets_in_sequence_are_replaced_one_by_one() -> None:
    revealed = RevealedSecrets()
    revealed.add("correct-horse")
    assert revealed.redact("correct-horse" * 2) == MASK * 2


@pytest.mark.parametrize("depth", [100, 5_000, 100_000])
def test_the_depth_of_a_value_does_not_matter(depth: int) -> None:
    revealed = RevealedSecrets()
    revealed.add("correct-horse")
    for leaf, redacted_leaf in (("harmless", "harmless"), ("correct-horse", MASK)):
        value: Any = leaf
        for level in range(depth):
            value = [value] if level % 2 else {"a": value}
        redacted = revealed.redact(value)
        assert (redacted is value) == (leaf == redacted_leaf)
        for _ in range(depth):
            redacted = redacted[0] if isinstance(redacted, list) else redacted["a"]
        assert redacted == redacted_leaf
        # Python frees nested containers by recursion: take them apart.
        while isinstance(value, list | dict):
            value = value.pop() if isinstance(value, list) else value.popitem()[1]


def test_only_what_has_a_secret_is_copied() -> None:
    revealed = RevealedSecrets()
    revealed.add("correct-horse")
    clean = {"a": [1, 2.5, None, True, 10**5000]}
    value = {"clean": clean, "secret": ("x", "correct-horse"), "correct-horse": 1}
    redacted = revealed.redact(value)
    assert redacted == {"clean": clean, "secret": ["x", MASK], MASK: 1}
    assert redacted["clean"] is clean


@pytest.mark.parametrize(
    "unit",
    ["%41", "%25", r"\\", r"\u0041", r"\x41", r"\101", r"\xc3\xa9", r"\ud83d\ude00", "&amp;", "%zz", "252"],
)
def test_escapes_are_undone_in_parts(unit: str) -> None:
    """A search holds the lock of the interpreter, so a match and a part are bounded."""
    count = 5 * PART_BYTES // len(unit)
    data = unit.encode() * count
    layers = list(undo_all(unit.encode()))[:2]
    assert list(undo_all(data))[:2] == [layer * count for layer in layers]
    matches = find_all(ESCAPE, data)
    assert max((len(match[0]) for match in matches), default=0) <= LONGEST_MATCH


def test_a_large_text_is_searched_once_for_all_secrets() -> None:
    revealed = RevealedSecrets()
    for index in range(60):
        revealed.add(f"secret-number-{index}-" + "xyz" * 5)
    text = "harmless text, 100 % " * 400_000
    assert revealed.redact(text) is text
    assert revealed.redact([text, "secret-number-7-" + "xyz" * 5]) == [text, MASK]


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("password!", "the password is wrong"),
        ("(default)", "by default, it is"),
        ("12:34:56:78", "run 12345678"),
        ("the.users", "all the users"),
    ],
)
def test_words_of_a_short_secret_without_its_signs_are_not_masked(secret: str, text: str) -> None:
    revealed = RevealedSecrets()
    revealed.add(secret)
    assert revealed.redact(text) == text
    assert revealed.redact(f"{text} {secret}") == f"{text} {MASK}"
