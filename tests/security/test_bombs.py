"""Expressions that would use all memory, or block a thread in one operation that Python cannot interrupt."""

from __future__ import annotations

import sys
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import guards, hostile_expressions
from noetl.executor.engine.initial_data import MAX_INITIAL_DATA
from noetl.executor.engine.rendering import render
from noetl.executor.engine.start import correct_input, new_run
from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.start_request import StartRequest
from noetl.planner.templates import budget, filter_costs
from noetl.planner.templates.budget import BUDGET, shared_budget
from noetl.planner.templates.evaluator import MAX_MESSAGE
from noetl.planner.templates.sandbox import SANDBOX
from noetl.planner.templates.template import EvaluationError, parse_template
from noetl.testing.run_harness import compile_text
from tests.action_calls import perform_action

ROWS = [{"id": n, "name": f"n{n}"} for n in range(20_000)]
NAMES: dict[str, Any] = {
    "rows": ROWS,
    "object": {str(n): n for n in range(100_000)},
    "text": "a" * 1_000_000,
    "same_hash": [[number * sys.hash_info.modulus, 1] for number in range(10_000)],
    "large": int("9" * 4299 + "8"),
    "larger": int("9" * 4300),
    "log": "10:15:00 INFO request 123 took 45 ms, no timeout\n" * 160_000,
    "table": '123,a name,"a city, abroad",12.5,true\n' * 76_000,
    "prose": "The pod restarted after the probe failed on the node and the lease expired. " * 260,
    "pairs": [(n, f"n{n}") for n in range(50_000)],
    "prices": {f"n{n}": n for n in range(45_000)},
}

LONG_TEXT = "'x' * 8000000"
OTHER_TEXT = "'x' * 7999999 ~ 'y'"
NEEDLE = "'x' * 1000000 ~ 'y' ~ 'x' * 1000000"
COPIES = 20
SHARED = "{% set a = ('x', 'y') %}" + "{% set a = (a, a) %}" * 40
"""A list whose hash takes 2^40 steps."""
NO_SETS = "`-` needs numbers or times, not the keys or items of an object; use `reject('in', …)`"


def find_error(text: str) -> EvaluationError:
    with pytest.raises(EvaluationError) as caught:
        parse_template(text).evaluate(NAMES.__getitem__)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        # JSON values are larger than their text.
        "{{ ('[' ~ '[],' * 2700000 ~ '0]') | fromjson }}",
        "{{ ('[' ~ '{},' * 2700000 ~ '0]') | fromjson }}",
        "{{ ('[' ~ '1.5,' * 2090000 ~ '0]') | fromjson }}",
        # A shared part of a result is copied as often as it occurs.
        "{{ [[[]] * 1000000] * 10 }}",
        "{{ [[[{}] * 1000] * 1000] * 50 }}",
        "{% set x = range(1000000) | list %}{{ [" + "x[:], " * COPIES + "] }}",
        "{% set x = " + LONG_TEXT + " %}{{ [" + "x[1:], " * COPIES + "] }}",
        "{{ [" + "dict(object), " * COPIES * 5 + "] }}",
        # Sort keys are copied in lower case, and compared character by character.
        "{{ (['X' * 8000000] * 1000) | sort }}",
        "{{ ([{'a': 'X' * 8000000}] * 1000) | sort(attribute='a') }}",
        "{{ ([{'a': 'X' * 8000000}] * 1000) | map(attribute='a') | sort }}",
        "{{ (['X' * 8000000] * 1000) | unique | list }}",
        "{{ ([{'a': 'X' * 8000000}] * 1000) | groupby('a') }}",
        "{{ (['X' * 8000000] * 1000) | max }}",
        "{{ (['X' * 8000000] * 1000) | min }}",
        "{{ ([['x' * 8000000]] * 1000000) | sort }}",
        "{{ {" + ", ".join(f"'{key}': {LONG_TEXT}" for key in "abcd") + "} | dictsort(by='value') }}",
        # Two texts that differ only at their ends.
        "{{ (" + OTHER_TEXT + ") in ([" + LONG_TEXT + "] * 1000000) }}",
        "{{ ([" + LONG_TEXT + "] * 1000000).count(" + OTHER_TEXT + ") }}",
        "{{ ([" + LONG_TEXT + "] * 1000000).index(" + OTHER_TEXT + ") }}",
        "{{ ([" + LONG_TEXT + "] * 1000000) == ([" + LONG_TEXT + "] * 1000000) }}",
        "{{ ([" + LONG_TEXT + "] * 1000000) | select('eq', " + OTHER_TEXT + ") | list }}",
        "{{ [" + OTHER_TEXT + "] | select('in', [" + LONG_TEXT + "] * 1000000) | list }}",
        "{{ (" + OTHER_TEXT + ") in dict(a=[" + LONG_TEXT + "] * 1000000).values() }}",
        # Each character of one text is compared with each of another.
        "{{ (" + LONG_TEXT + ") | trim('y' * 4000000 ~ 'x') }}",
        "{{ (" + LONG_TEXT + ").strip('y' * 4000000 ~ 'x') }}",
        "{{ (" + LONG_TEXT + ").lstrip('y' * 4000000 ~ 'x') }}",
        "{{ (" + LONG_TEXT + ").rstrip('y' * 4000000 ~ 'x') }}",
        "{{ (" + LONG_TEXT + ").rfind(" + NEEDLE + ") }}",
        "{{ (" + LONG_TEXT + ").rindex(" + NEEDLE + ") }}",
        "{{ (" + LONG_TEXT + ").rsplit(" + NEEDLE + ") }}",
        "{{ (" + LONG_TEXT + ").rpartition(" + NEEDLE + ") }}",
        "{{ (" + LONG_TEXT + ") | wordwrap(1) }}",
        "{{ (" + LONG_TEXT + ") | wordwrap }}",
        "{{ ('\n' * 8000000) | wordwrap }}",
        "{{ ('x\v' * 4000000) | wordwrap }}",
        "{{ ('x ' * 4000000) | wordwrap(1) }}",
        "{{ ('a-' * 4000000) | wordwrap(1) }}",
        "{{ ('x ' * 4000000) | title }}",
        # Values are converted to text.
        "{{ ([" + LONG_TEXT + "] * 1000) is lower }}",
        "{{ ([" + LONG_TEXT + "] * 1000) is upper }}",
        "{{ dict(a=[" + LONG_TEXT + "] * 1000).items() | string }}",
        "{{ dict(a=[" + LONG_TEXT + "] * 1000).values() ~ '' }}",
        "{{ ([{'a': " + LONG_TEXT + "}] * 1000) | map(attribute='a') | join }}",
        "{{ ([{'a': " + LONG_TEXT + "}] * 1000) | join(attribute='a') }}",
        "{{ ''.join(([{'a': " + LONG_TEXT + "}] * 1000) | map(attribute='a')) }}",
        "{{ (" + LONG_TEXT + ") | b64encode }}",
        "{{ ('ab ' * 2700000).split() }}",
        "{{ ('ab ' * 2700000).rsplit(' ') }}",
        "{{ ('ab\n' * 2700000).splitlines() }}",
        "{{ (" + LONG_TEXT + ") | list }}",
        # Time formats are compiled.
        "{{ '2026' | to_datetime('%Y' ~ 'x' * 8000000) }}",
        "{{ '2026' | to_datetime(' a' * 1000000) }}",
        "{{ ('2' * 8000000) | to_datetime }}",
        "{% for i in range(6000) %}{% set x = ('2026' ~ i) | to_datetime('%Y' ~ i) %}{% endfor %}",
        # So are regular expressions.
        "{% for i in range(9000) %}{% set x = 'a' | regex_search('(?:x{900})' ~ i) %}{% endfor %}",
        # Each name of a path is read, and each attribute of a sort.
        "{{ [1] | sort(attribute='a,' * 4000000) }}",
        "{{ [{'a': 1}] | map(attribute='a.' * 4000000) | list }}",
        "{{ [{'a': 1}] | map(attribute='a.' * 4000000, default=1) | list }}",
        "{{ [{'a': 1}] | selectattr('a.' * 4000000) | list }}",
        "{{ [{'a': 1}] | groupby('a.' * 4000000, default=1) }}",
        "{{ (['x'] * 9000) | map(attribute='0.' * 90 ~ '0') | list }}",
        "{{ (['x'] * 9000) | map(attribute='0.' * 90 ~ '0', default=1) | list }}",
        "{{ (['x'] * 9000) | selectattr('0.' * 90 ~ '0') | list }}",
        "{{ (['x'] * 9000) | groupby('0.' * 90 ~ '0', default=1) }}",
        "{{ (['x'] * 9000) | join(attribute='0.' * 90 ~ '0') }}",
        # An option asks for more than the value has.
        "{{ ([0] * 15000) | map('strftime', '%50000d' ~ ' ' * 190) | list }}",
        "{{ ['abc' | slice(400000) | list, 'abc' | slice(400000) | list] }}",
        "{{ range(6000) | map('string') | map('slice', 1000) | map('list') | list }}",
        "{{ range(14000) | map('string') | map('batch', 1000, 'x') | map('list') | list }}",
        "{{ 0 | strftime('%900000000d') }}",
        # A replacement has many parts, or inserts a long group many times.
        "{{ 'a' | regex_replace('(a)', '\\\\1' * 4000000) }}",
        "{{ ('b' * 300000) | regex_replace('(b+)', '\\\\1' * 1000) }}",
        # A text within a list has up to ten characters for one, and JSON six.
        "{{ ['\U000e0001' * 7500000] | string | length }}",
        "{{ {'\U000e0001' * 7500000: 1} ~ '' }}",
        "{{ ['\x00' * 2500000] | sha256 }}",
        "{{ ['\x01' * 1500000] | tojson }}",
        "{{ ('\x01' * 1500000) | tojson }}",
        "{{ {'\x01' * 1500000: 1} | tojson }}",
        # Python keeps twelve bytes for a character while it changes the case of a text.
        "{{ ('ΐ' * 5000000).upper() | length }}",
        "{{ ('ΐ' * 3700000) | upper | length }}",
        "{{ (['\U000e0001' * 3000000] * 12) | sort | length }}",
        "{{ ([{'a': '\U000e0001' * 3000000}] * 12) | groupby('a') | length }}",
        "{{ (['\U000e0001' * 1000000] * 25) | unique | list | length }}",
        # A character beyond Latin-1 is an object of its own.
        "{% set t = ['😀' * 1000000] %}{{ t | sum(start=[]) | length }}",
        # Markup escapes what is added to it, or what it joins.
        "{{ ((\"'\" * 4200000 ~ '😀') + ('' | safe)) | length }}",
        "{{ (('' | safe) + \"'\" * 4200000) | length }}",
        "{{ ('' | safe).join([\"'\" * 4200000]) | length }}",
        "{{ [\"'\" * 4200000] | sum(start='' | safe) | length }}",
        "{{ ('😀' ~ '\n' * 6000) | safe | indent(\"'\" * 1200, true, true) | length }}",
        "{{ ['\\\\' * 5000000] | string }}",
        # A negative precision takes as long as a positive one.
        "{{ 5 | round(-100000000) }}",
        "{{ ('1' * 3000000 ~ 'ä') | float }}",
        "{{ ('{' ~ '\"n\":1.5,' * 580000 ~ '\"n\":0}') | fromjson }}",
        # An object reads the hash of what is looked for in it.
        SHARED + "{{ a in {} in [1] }}",
        SHARED + "{{ 1 in [1] in a in {} }}",
        # Large numbers take more memory, and many of them have one hash.
        "{{ range(0, 2**2000 * 1000000, 2**2000) | list }}",
        "{{ dict(same_hash) }}",
        # Nearly each place of a long text remains for the search that compares each character.
        "{{ ('a' * 7998097 ~ 'baa') in ('a' * 8000000) }}",
        "{{ ('a' * 8000000).find('a' * 7998097 ~ 'baa') }}",
        "{{ ('a' * 8000000) | replace('a' * 7998097 ~ 'baa', '') }}",
        "{{ ('a' * 8000000).split('a' * 7998097 ~ 'baa') }}",
        # Each part of a text is searched again, and the last one is short.
        "{{ (('a' * 999997 ~ 'baa') * 5 ~ 'a' * 1002000) | replace('a' * 999997 ~ 'baa', '') | length }}",
        "{{ (('a' * 999997 ~ 'baa') * 5 ~ 'a' * 1002000).split('a' * 999997 ~ 'baa') | length }}",
        # Each place of a short text remains, many times.
        *(
            "{% set n = 'a' * 600 ~ 'b' ~ 'a' * 600 %}{% set h = 'a' * 2499 %}"
            f"{{% for i in range(3000) %}}{{% set x = {search} %}}{{% endfor %}}"
            for search in (
                "n in h", "h.count(n)", "h.find(n)", "h.index('a', 0) + h.find(n, 0)", "h.partition(n)",
                "h.replace(n, '')", "h | replace(n, '')", "h.rfind(n)", "h.rpartition(n)", "h.rsplit(n)",
                "h.split(n)",
            )
        ),
        # A part of a long text is searched as a short one.
        "{% for i in range(1000) %}{% set x = text.find('a' * 600 ~ 'b' ~ 'a' * 600, 0, 2499) %}{% endfor %}",
        # Integers of thousands of digits differ at their ends, or are written many times.
        "{{ larger in ([large] * 1000000) }}",
        "{{ ([large, larger] * 150000) | sort | length }}",
        "{{ ([large, larger] * 150000) | unique | list | length }}",
        "{{ ([large, larger] * 150000) | max | string | length }}",
        "{{ [large] * 15000 }}",
        "{{ [[large, 'x']] * 15000 }}",
        "{{ [{'a': large}] * 15000 }}",
        "{% for i in range(9000) %}{% set x = '1e300' | filesizeformat %}{% endfor %}",
        "{{ ([1e300] * 9000) | map('round', 300) | list | length }}",
    ],
)  # fmt: skip
def test_the_work_exceeds_the_budget(text: str) -> None:
    assert find_error(text).type == "LimitExceeded"


def find_tuples_with_one_hash(number: int) -> list[list[int]]:
    """Return pairs of integers whose tuples have one hash (`tuplehash` in `Objects/tupleobject.c`)."""
    modulus = 2**64
    primes = 11400714785074694791, 14029467366897019727, 2870177450012600261

    def add(state: int, lane: int) -> int:
        mixed = (state + lane * primes[1]) % modulus
        return ((mixed << 31) | (mixed >> 33)) * primes[0] % modulus

    wanted = add(add(primes[2], 5), 7) * pow(primes[0], -1, modulus) % modulus
    before = ((wanted >> 31) | (wanted << 33)) % modulus
    pairs: list[list[int]] = []
    first = 1
    while len(pairs) < number:
        second = (before - add(primes[2], first)) * pow(primes[1], -1, modulus) % modulus
        second -= modulus if second >= modulus // 2 else 0
        if abs(second) < sys.hash_info.modulus and second != -1:
            pairs.append([first, second])
        first += 1
    return pairs


@pytest.mark.skipif(sys.hash_info.width != 64, reason="the hash of a tuple has 64 bits")
def test_tuples_with_one_hash_are_compared_few_times() -> None:
    pairs = find_tuples_with_one_hash(4_000)
    assert len({hash(tuple(pair)) for pair in pairs}) == 1
    distinct = [[number, -number] for number in range(1, 4_001)]
    # If each was compared with all others, this would take more than ten times as long.
    assert measure_unique(pairs) < 5 * measure_unique(distinct)


def measure_unique(pairs: list[list[int]]) -> float:
    """Return the shortest CPU time of three evaluations that look for equal pairs, in seconds."""
    template, times = parse_template("{{ dict(pairs).items() | unique | list | length }}"), list[float]()
    for _ in range(3):
        started = time.thread_time()
        assert template.evaluate({"pairs": pairs}.__getitem__) == len(pairs)
        times.append(time.thread_time() - started)
    return min(times)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SHARED + "{{ 1 | round(1, a) }}", "the method of `round` must be a text, not a list"),
        (SHARED + "{{ 1 | round(method=a) }}", "the method of `round` must be a text, not a list"),
        (SHARED + "{{ {}[a:a] }}", "`[a:b]` needs a list or a text, not an empty object"),
        ("{{ {}[''.upper:1] }}", "`[a:b]` needs a list or a text, not an empty object"),
        ("{{ {}[([1] | map('abs')):1] }}", "`[a:b]` needs a list or a text, not an empty object"),
        ("{{ ([1] | map('abs'))[0:1] }}", "the list has not been read yet: add `| list`"),
        ("{{ {}.items()[0:1] }}", "`[a:b]` needs a list or a text, not a part of an object"),
        (SHARED + "{{ '2020' | to_datetime(a) }}", "the pattern of `to_datetime` must be a text, not a list"),
        (SHARED + "{{ 0 | strftime(a) }}", "the pattern of `strftime` must be a text, not a list"),
        (SHARED + "{{ {'k': a}.items() - [] }}", NO_SETS),
        (SHARED + "{{ {}.keys() - [a] }}", NO_SETS),
        ("{{ range(10) - {}.keys() }}", NO_SETS),
        ("{{ '%900000000d' is even }}", "`is even` needs a number, not a text"),
        ("{{ ['%900000000d'] | select('odd') | list }}", "`is odd` needs a number, not a text"),
        (
            "{{ 'a b' | wordwrap(1e308 * 10) }}",
            "the width of `wordwrap` must be a finite number, not a number",
        ),
        ("{{ 'a b' | wordwrap('x') }}", "the width of `wordwrap` must be a finite number, not a text"),
        (
            "{{ 'a' | regex_replace('a', '\\\\g<' ~ 'b' * 1000 ~ '>') }}",
            "unknown escape `\\g` in the replacement",
        ),
    ],
)
def test_a_value_of_another_kind_is_refused_before_it_is_used(text: str, message: str) -> None:
    error = find_error(text)
    assert (error.type, error.message) == ("TemplateError", message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SHARED + "{{ a is filter }}", "False"),
        (SHARED + "{{ [a] | select('test') | list }}", "[]"),
        ("{{ ['upper' is filter, 'even' is test, 'nothing' is filter] }}", [True, True, False]),
        ("{{ (\"'\" * 3 + ('' | safe)) }}", "&#39;" * 3),
        ("{{ (('' | safe) + \"'\") }}", "&#39;"),
        ("{{ ('' | safe).join([\"'\"]) }}", "&#39;"),
        ("{{ [\"'\"] | sum(start='' | safe) }}", "&#39;"),
        ("{{ '<' | e | trim | e }}", "&lt;"),
        ("{{ 'a b c' | wordwrap(10 / 2) }}", "a b c"),
        ("{{ ('id;x\\n' * 900000) | tojson | length }}", 5_400_002),
        ("{{ ['5\u00a0\u20ac ' ~ 'x' * 900000] | string | length }}", 900_011),
        ("{{ '<' | escape | escape }}", "&lt;"),
        (
            "{{ [4 is even, 3 is odd, 3 is even, 3 - 1, 2.5 - 1, range(5)[1:3] | list] }}",
            [True, True, False, 2, 1.5, [1, 2]],
        ),
        ("{{ ['a\"\\\\\\n', 'ä\x01'] | tojson }}", '["a\\"\\\\\\n", "ä\\u0001"]'),
    ],
)
def test_other_kinds_of_values_are_used_without_their_hash(text: str, expected: Any) -> None:
    assert parse_template(text).evaluate(NAMES.__getitem__) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("[1] | map(large) | list", "the name of a filter must be a text, not a list"),
        ("[1] | select(large) | list", "the name of a test must be a text, not a list"),
        ("[1] | reject(large) | list", "the name of a test must be a text, not a list"),
        ("[{'a': 1}] | selectattr('a', large) | list", "the name of a test must be a text, not a list"),
        ("[{'a': 1}] | rejectattr('a', large) | list", "the name of a test must be a text, not a list"),
        ("[1] | map(large | first) | list", f"unknown filter `{chr(0) * 100}`"),
        ("[1] | map('a' * 64) | list", f"No filter named '{'a' * 64}'."),
        ("[1] | map(absent) | list", "`absent` is undefined"),
        ("[1].index(large)", "the list does not contain `a list`"),
        ("[1, 2].index(2, 0, 1)", "the list does not contain `2`"),
        ("{large: 1}.q", "`q` is undefined in an object with `a list`"),
        ("{}[large]", "`a list` is undefined in an empty object"),
    ],
)
def test_a_message_shows_the_beginning_of_a_value(expression: str, message: str) -> None:
    """Written as text, `large` takes 640 MB."""
    names = {"large": ("\0" * 8_000_000,) * 20}

    def read(name: str) -> Any:
        return names[name] if name in names else SANDBOX.undefined(name=name)

    tracemalloc.start()
    try:
        with pytest.raises(EvaluationError) as caught:
            parse_template("{{ " + expression + " }}").evaluate(read)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.message == message
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("range(1000000) | sort(reverse=true) | first", 999_999),
        ("rows | sort(attribute='name') | map(attribute='id') | first", 0),
        ("rows | groupby('id') | length", 20_000),
        ("rows | map(attribute='name') | unique | list | length", 20_000),
        ("rows | map(attribute='id') | max", 19_999),
        ("rows | selectattr('name', 'in', ['n1', 'n2']) | map(attribute='id') | list", [1, 2]),
        ("rows | selectattr('id', 'in', [5, 6]) | map(attribute='name') | join(' ')", "n5 n6"),
        ("rows | join(',', attribute='id') | length", 108_889),
        ("(rows | tojson | fromjson) == rows", True),
        ("(rows * 10) | length", 200_000),
        ("('\"' ~ 'a, ' * 300000 ~ '\"') | fromjson | length", 900_000),
        ("('ab ' * 300000).split() | length", 300_000),
        ("('a/b/c').rsplit('/', 1)", ["a/b", "c"]),
        ("('a b c').split(none, 1)", ["a", "b c"]),
        ("('a b c').split()", ["a", "b", "c"]),
        ("('x' * 100000) | wordwrap(76) | length", 101_315),
        ("text | wordwrap(100000) | length", 1_000_009),
        ("('a b ' * 20000) | wordwrap(40) | length", 79_999),
        ("'99999' in object and 'x' not in object", True),
        ("object.items() | sort | first", ["0", 0]),
        ("text[1:] | length", 999_999),
        ("'  a ' | trim", "a"),
        ("'--a-' | trim('-')", "a"),
        ("[3, 1, 2] | sort | join", "123"),
        ("['b', 'A'] | sort(case_sensitive=true) | join", "Ab"),
        ("{'b': 1, 'a': 2} | dictsort(by='value') | map('first') | join", "ba"),
        ("{'b': 1, 'A': 2} | dictsort | map('first') | join", "Ab"),
        ("{'b': 1, 'x' * 100: 2} | dictsort | map('first') | first", "b"),
        ("{2: 1, 1: 2} | dictsort | map('last') | list", [2, 1]),
        ("{} | dictsort", []),
        ("'é' | upper", "É"),
        ("'2026-01-31T10:00:00' | to_datetime | strftime('%H %Z')", "10 UTC"),
        ("0 | strftime('%Y')", "1970"),
        ("['a', 'A', 'b'] | unique | list", ["a", "b"]),
        ("[1, 'a', none] | join('-')", "1-a-None"),
        ("'A' is upper and 'a' is lower and 5 is not lower", True),
        ("'<b>x</b>' | striptags", "x"),
        ("(('x' * 1000 ~ ' ') * 500) | wordwrap(1000) | length", 500_499),
        ("same_hash | map('first') | unique | list | length", 10_000),
        ("[2 ** 64, 2.0 ** 64, 1, true, 1.0] | unique | list", [2**64, 1]),
        ("dict([[2 ** 64, 'a']])[2 ** 64]", "a"),
        ("range(2 ** 40, 2 ** 40 + 3) | list | length", 3),
        ("[{'a': {'b': {'c': 1}}}] | map(attribute='a.b.c') | list", [1]),
        ("[{'a': {}}] | map(attribute='a.b', default=7) | list", [7]),
        ("'2026-01-31' | to_datetime | strftime('%4Y-%m')", "2026-01"),
        ("'abc' | slice(5) | list | length", 5),
        (
            "[(1, 'a'), (1.0, 'a'), (true, 'b'), (2 ** 64,), (2.0 ** 64,)] | unique | list | length",
            3,
        ),
        ("[[1, large], [2, larger]] | map('last') | max == larger", True),
        ("rows | map(attribute='name') | select('in', 'n1234567 ' * 100) | list | length", 5),
        ("('The quick brown fox ' * 100000).count('quick brown')", 100_000),
        ("('The quick brown fox ' * 100000).rfind('quick brown')", 1_999_984),
        ("('line of a text\n' * 50000) | replace('of a', 'of the') | length", 850_000),
        ("[large, {'a': [larger, 1, 'x']}] | length", 2),
        # These are repeated until they use most of the budget, so that a higher price of a search is found.
        ("([log] * 3) | map('replace', 'timeout', 'x') | map('length') | list", [6_880_000] * 3),
        (
            (
                "([log[:1000000]] * 8) | map('replace', 'INFO', 'x') | map('replace', 'request', 'y')"
                " | map('replace', 'timeout', 'z') | map('length') | sum"
            ),
            8 * 693_880,
        ),
        (
            (
                "([table] * 2) | map('replace', 'name', 'n') | map('replace', 'true', '1')"
                " | map('replace', '\"', '') | map('replace', 'city', 'c') | map('replace', ', ', ',')"
                " | map('length') | sum"
            ),
            2 * 1_976_000,
        ),
        ("(['connection refused'] * 7) | select('in', log) | list", []),
        ("(['the node was restarted'] * 2000) | select('in', prose) | list", []),
        ("prices.items() | unique | list | length", 45_000),
        ("pairs | unique | list | length", 50_000),
    ],
)
def test_ordinary_work_is_within_the_budget(
    expression: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The result must not depend on the load of the machine.
    monkeypatch.setattr(budget, "CPU_SECONDS", 60.0)
    assert parse_template("{{ " + expression + " }}").evaluate(NAMES.__getitem__) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "{% for i in numbers %}{{ large }}{% endfor %}",
        "{% for i in numbers %}{% set x = large ~ '' %}{% endfor %}",
        "{% for i in numbers %}{% set x = large | string %}{% endfor %}",
        "{% for i in numbers %}{% set x = large // 3 ** 600 %}{% endfor %}",
        "{% for i in numbers %}{% set x = large % 3 ** 600 %}{% endfor %}",
        "{% for i in numbers %}{% set x = 3 ** 1200 * 3 ** 1200 %}{% endfor %}",
        "{% for i in numbers %}{% set x = large is divisibleby(3 ** 600) %}{% endfor %}",
        "{% for i in numbers %}{% set x = large | round(-1000) %}{% endfor %}",
        "{% for i in numbers %}{% set x = digits | int %}{% endfor %}",
        "{{ ([large] * 20000) | string }}",
        "{{ ([large] * 20000) | tojson }}",
        "{{ ([large] * 20000) | join }}",
        "{{ ('[' ~ (digits ~ ',') * 1900 ~ '1]') | fromjson }}",
    ],
)
def test_operations_on_large_numbers_are_charged_by_their_digits(expression: str) -> None:
    # Converting 4,000 digits takes about 0.4 ms.
    names = {"large": 10**4000, "digits": "9" * 4000, "numbers": list(range(20_000))}
    with pytest.raises(EvaluationError) as caught:
        parse_template(expression).evaluate(names.__getitem__)
    assert caught.value.type == "LimitExceeded"


def test_the_copy_of_a_container_costs_more_than_its_items() -> None:
    def units(expression: str) -> int:
        parse_template("{{ " + expression + " }}").evaluate(NAMES.__getitem__)
        return budget.used_units()

    numbers = units("[0] * 10000")
    # A container takes as long as some fifteen numbers.
    assert units("[[]] * 10000") > 15 * numbers
    assert units("[{}] * 10000") > 25 * numbers


def test_sums_of_large_numbers_are_charged_by_their_bits() -> None:
    def units(number: int) -> int:
        parse_template("{{ ([n] * 1000) | sum }}").evaluate({"n": number}.__getitem__)
        return budget.used_units()

    assert units(10**4000) > 10 * units(10)


def test_a_key_lookup_is_not_charged_as_a_search() -> None:
    text = "{% for n in range(50000) %}{% if n in object %}x{% endif %}{% endfor %}"
    assert parse_template(text).evaluate(NAMES.__getitem__) == ""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x | upper | length", 8_000_000),
        ("x.lower() | length", 8_000_000),
        ("x | capitalize | length", 8_000_000),
        ("x.casefold() | length", 8_000_000),
        ("x.swapcase() | length", 8_000_000),
        ("x is lower", True),
        ("x is upper", False),
        ("x.isalpha()", True),
        ("(x[:5000000] | upper)[:3]", "ÉÉÉ"),
        ("(wide | lower)[:3]", "ääß"),
    ],
)
def test_the_case_of_a_long_text_is_charged_by_its_memory(
    expression: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "CPU_SECONDS", 60.0)
    names = {"x": "é" * 8_000_000, "wide": "ÄÄß😀" * 1_000_000}
    tracemalloc.start()
    try:
        value = parse_template("{{ " + expression + " }}").evaluate(names.__getitem__)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert value == expected
    assert peak < 64_000_000


LETTERS = st.text(st.sampled_from("aSÄßΐıİ😀 -Σσ"), min_size=1, max_size=40)


@pytest.mark.parametrize("method", sorted(filter_costs.CASE_METHODS))
@given(text=LETTERS, part=st.integers(1, 12))
def test_the_case_of_a_text_is_the_same_in_parts(method: str, text: str, part: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filter_costs, "_CASE_PART", part)
        patch.setattr(filter_costs, "_MEASURED_PART", 1)
        budget.start_budget()
        assert filter_costs.change_case(text, method) == getattr(text, method)()


@pytest.mark.parametrize("text", ["Σé" * 4_000_000, "ΐ" * 4_000_000, "😀" * 8_000_000])
def test_the_case_of_a_text_with_much_memory_is_refused(text: str) -> None:
    for expression in ("x | lower | upper", "x.swapcase() ~ x.upper()"):
        tracemalloc.start()
        try:
            with pytest.raises(EvaluationError) as caught:
                parse_template("{{ " + expression + " }}").evaluate({"x": text}.__getitem__)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert caught.value.type == "LimitExceeded"
        assert peak < 64_000_000


ROW_SHAPES = [
    [{"a": n, "b": "x" * n, "c": [n, {"d": n}]} for n in range(100)],
    [{"a": {str(n): n}} for n in range(100)],
    [{"a": n} if n % 2 else {"b": n, "c": "x"} for n in range(100)],
    [{n: "x", "b": [[], {}]} for n in range(100)],
    [{} for _ in range(100)],
    {"a": ({"b": 1},) * 70, "c": [["x"] * 3] * 80},
]


@pytest.mark.parametrize("value", ROW_SHAPES)
@pytest.mark.parametrize("indent", [0, 2])
def test_the_measure_of_rows_is_that_of_their_values(value: Any, indent: int) -> None:
    """Columns of many rows are visited together, and those of few are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "MIN_COLUMN", 1_000_000)
        budget.start_budget()
        expected = budget.measure(value, indent), budget.used_units()
    budget.start_budget()
    assert (budget.measure(value, indent), budget.used_units()) == expected


class CountedRow(dict[str, Any]):
    """A row that counts how often its values are read."""

    reads = 0

    def __getitem__(self, key: str) -> Any:
        CountedRow.reads += 1
        return super().__getitem__(key)


@pytest.mark.parametrize(
    ("filter", "reads"),
    [
        ("sort(attribute='a')", 100),
        ("sort(attribute='a,b')", 200),
        ("groupby('a')", 100),
        ("unique(attribute='a') | list", 100),
        ("max(attribute='a')", 100),
        ("min(attribute='a')", 100),
    ],
)
def test_keys_are_read_once(filter: str, reads: int) -> None:
    rows = [CountedRow(a=f"{n % 7}", b=n) for n in range(100)]
    CountedRow.reads = 0
    parse_template("{{ rows | " + filter + " | length }}").evaluate({"rows": rows}.__getitem__)
    assert CountedRow.reads == reads


@pytest.mark.parametrize(
    "text", ["{% if true %}{{ 'x' * 5000000 }}{% endif %}", "{% if true %}{{ 'x' | upper }}{% endif %}"]
)
def test_no_expression_is_evaluated_when_a_template_is_compiled(text: str) -> None:
    template = parse_template(text)
    with shared_budget():
        template._compute_text  # noqa: B018 - compiles
        assert budget.used_units() == 0


PREPAID = {
    "nested loops": "{% for a in range(100000) %}{% for b in range(9) %}{{ a * b }}{% endfor %}{% endfor %}",
    "a body of filters": "{% for a in range(1000000) %}{{ a | string | trim | tojson }}{% endfor %}",
    "a branch": "{% for a in range(99999) %}{% if a < 0 %}{{ a | tojson }}{% else %}x{% endif %}{% endfor %}",
    "a filter of items": "{{ range(1000000) | map('string') | list }}",
}


@pytest.mark.parametrize("text", PREPAID.values(), ids=PREPAID)
def test_a_loop_is_refused_before_its_first_round(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    charges: list[int] = []
    check = budget._check

    def count_and_check() -> None:
        charges.append(budget.used_units())
        check()

    monkeypatch.setattr(budget, "_check", count_and_check)
    assert find_error(text).type == "LimitExceeded"
    # The units for the numbers of the first loop may need a check, and those for all of its rounds do.
    assert len(charges) <= 2


@pytest.mark.parametrize(
    "text",
    [
        "{% for n in numbers %}{{ n }}: {{ 'a ' | trim | upper }}{% if n > 5 %};{% endif %}{% endfor %}",
        "{{ numbers | map('string') | map('upper') | join(',') }}",
        "{{ rows[:10000] | selectattr('id', 'gt', 50) | map(attribute='name') | unique | sort | length }}",
        "{{ rows[:10000] | groupby('name') | length }} {{ rows[:10000] | tojson | length }}",
        "{% for row in rows[:10000] %}{{ row.name | trim | lower | replace('n', 'm') }}{% endfor %}",
    ],
)
def test_10_000_items_with_a_few_filters_are_within_the_budget(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "CPU_SECONDS", 60.0)
    parse_template(text).evaluate({**NAMES, "numbers": list(range(10_000))}.__getitem__)


def test_the_message_of_an_error_is_cut() -> None:
    error = find_error("{{ ('x' * 4000000) | filesizeformat }}")
    assert (error.type, len(error.message)) == ("TemplateError", MAX_MESSAGE)


def test_evaluations_with_a_shared_budget_share_their_units() -> None:
    # A text is charged when it is created and when it is returned.
    part = parse_template("{{ 'x' * " + str(BUDGET // 17) + " }}")
    with shared_budget():
        for _ in range(8):
            part.evaluate(NAMES.__getitem__)
        with pytest.raises(EvaluationError, match="too much data"), shared_budget():
            part.evaluate(NAMES.__getitem__)
    part.evaluate(NAMES.__getitem__)


def test_evaluations_with_a_shared_budget_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SHARED_SECONDS", 0.01)
    with pytest.raises(EvaluationError, match=r"together take more than 0\.01 s"), shared_budget():
        for _ in range(10_000):
            parse_template("{{ 1 + range(2) | sum }}").evaluate(NAMES.__getitem__)
    parse_template("{{ range(1000000) | sum }}").evaluate(NAMES.__getitem__)


MANY_TEXTS = {f"n{n}": "{{ 'x' * 8000000 }}" for n in range(100)}


def test_the_parameters_of_an_action_share_a_budget() -> None:
    with pytest.raises(ActionError) as caught:
        perform_action("set", set=MANY_TEXTS)
    assert caught.value.type == "LimitExceeded"
    with pytest.raises(ActionError) as caught:
        render(MANY_TEXTS, None, NAMES.__getitem__)
    assert caught.value.type == "LimitExceeded"
    with pytest.raises(ActionError) as caught:
        perform_action("log", message="x", level="{{ 'x' * 8000000 }}", fields=MANY_TEXTS)
    assert caught.value.type == "LimitExceeded"


def start_run(text: str, inputs: dict[str, Any] | None = None, **options: Any) -> Any:
    plan = compile_text(f"name: x\n{text}\nsteps: [{{name: a, run: [{{action: log, message: ok}}]}}]")
    return new_run(plan.header, plan.hash, StartRequest(inputs or {}, **options), now=1.0)[0]


def find_too_long_name(text: str, inputs: dict[str, Any] | None = None, **options: Any) -> str:
    with pytest.raises(RejectedError) as caught:
        start_run(text, inputs, **options)
    assert caught.value.reason == "invalid_input"
    return str(caught.value.details["inputs"][0]["name"])


LARGE_TEXT = "{{ 'x' * 400000 }}"


def test_environment_and_variables_share_a_limit() -> None:
    run = start_run(f'environment: {{a: "{LARGE_TEXT}"}}\nvariables: {{b: "{LARGE_TEXT}"}}')
    assert (len(run.environment["a"]), len(run.variables["b"])) == (400_000, 400_000)
    assert (
        find_too_long_name(f'environment: {{a: "{LARGE_TEXT}", b: "{LARGE_TEXT}", c: "{LARGE_TEXT}"}}')
        == "environment.c"
    )
    assert (
        find_too_long_name(f'environment: {{a: ["{LARGE_TEXT}", {{b: "{LARGE_TEXT}"}}, "{LARGE_TEXT}"]}}')
        == "environment.a"
    )
    assert (
        find_too_long_name(
            f'environment: {{a: "{LARGE_TEXT}", b: "{LARGE_TEXT}"}}\nvariables: {{c: "{LARGE_TEXT}"}}'
        )
        == "variables.c"
    )
    inputs = {"c": "x" * 400_000}
    assert (
        find_too_long_name(
            f'environment: {{a: "{LARGE_TEXT}", b: "{LARGE_TEXT}"}}\nvariables: {{c: 1}}', variables=inputs
        )
        == "variables.c"
    )


def test_a_value_counts_as_often_as_it_is_used() -> None:
    inputs = {"x": [0] * (MAX_INITIAL_DATA // 10)}
    entries = ", ".join(f'n{n}: "{{{{ x }}}}"' for n in range(10))
    assert find_too_long_name(f"input: {{x: array}}\nenvironment: {{{entries}}}", inputs) == "environment.n5"


def test_corrected_input_has_the_same_limit() -> None:
    text = "input: {n: integer}\nenvironment: {a: \"{{ 'x' * n }}\"}"
    plan = compile_text(f"name: x\n{text}\nsteps: [{{name: a, run: [{{action: log, message: ok}}]}}]")
    run = start_run(text, {"n": 1})
    with pytest.raises(RejectedError) as caught:
        correct_input(plan.header, run, {"n": MAX_INITIAL_DATA + 1})
    assert caught.value.reason == "invalid_input"


def test_the_initial_templates_share_a_budget() -> None:
    entries = ", ".join(f'n{n}: "{{{{ range(1000000) | list | length }}}}"' for n in range(10))
    with pytest.raises(RejectedError, match="too much data") as caught:
        start_run(f"environment: {{{entries}}}")
    assert caught.value.reason == "invalid_input"


def test_the_benchmarks_measure_refusals_and_guards() -> None:
    refused = hostile_expressions.measure(["nested loops"])[0]
    assert (refused["result"], refused["bytes"] < 64 * 1024 * 1024) == ("LimitExceeded", True)
    honest = guards.measure(guards.TEMPLATES, rounds=1, seconds=0.0001)
    assert [row["template"] for row in honest] == list(guards.TEMPLATES)
    assert all(row["seconds"] > 0 and row["jinja_seconds"] > 0 for row in honest)
