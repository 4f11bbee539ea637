from __future__ import annotations

import gc
import tracemalloc

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.dataflow import infallible, narrowing
from noetl.planner.templates import template as template_module
from noetl.planner.templates.template import TEMPLATES, parse_template
from noetl.planner.weighted_cache import WeightedCache


def test_the_entries_that_were_not_used_are_evicted() -> None:
    computed: list[str] = []

    def compute(key: str) -> str:
        computed.append(key)
        return key.upper()

    cache = WeightedCache(compute, lambda key, _: len(key), 12)
    assert [cache.get(key) for key in ("aaa", "bbb", "ccc", "ddd")] == ["AAA", "BBB", "CCC", "DDD"]
    cache.get("aaa")
    cache.get("eee")
    assert (len(cache), cache.weight) == (4, 12)
    cache.get("aaa")
    assert computed == ["aaa", "bbb", "ccc", "ddd", "eee"]
    cache.get("bbb")
    assert computed[-1] == "bbb"
    cache.clear()
    assert (len(cache), cache.weight) == (0, 0)


def test_a_heavy_value_is_not_kept() -> None:
    cache = WeightedCache(str.upper, lambda key, _: len(key), 12)
    assert cache.get("aaaa") == "AAAA"
    assert len(cache) == 0


def test_parsed_templates_are_bounded_in_bytes() -> None:
    TEMPLATES.clear()
    for index in range(200):
        parse_template("{{ [" + "1|e," * 1900 + str(index) + "] }}")
    assert TEMPLATES.weight <= template_module.MAX_CACHED_BYTES
    assert 0 < len(TEMPLATES) < 200
    TEMPLATES.clear()


@pytest.mark.parametrize(
    "expression", ["[{n}, " + "1|e," * 900 + "1]", "a{n} is defined and " * 200 + "true"]
)
def test_nothing_of_a_playbook_is_kept_after_its_compilation(expression: str) -> None:
    def compile_one(number: int) -> None:
        text = expression.replace("{n}", str(number)).replace("a{n}", f"a{number}")
        lines = (
            f'- {{name: s{index}, rule: [{{case: "{{{{ [{index}] and {text} }}}}"}}]}}\n'
            for index in range(20)
        )
        compile_playbook(f"name: x\nsteps:\n{''.join(lines)}", catalogue())

    compile_one(0)
    TEMPLATES.clear()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1, 4):
        compile_one(number)
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(TEMPLATES) == 0
    assert narrowing._narrow.cache_info().currsize == 0
    assert infallible._is_infallible_text.cache_info().currsize == 0
    assert kept < 1024 * 1024
