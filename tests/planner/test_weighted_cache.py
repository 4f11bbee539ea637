from __future__ import annotations

import gc
import json
import tracemalloc

import pytest

from noetl.api.service.compiler import PlaybookCompiler
from noetl.executor.actions import catalogue
from noetl.executor.stores.plan_parts import decode_part, weigh_part
from noetl.planner.compile import compile_playbook
from noetl.planner.templates import template as template_module
from noetl.planner.templates.parser import TemplateProblem
from noetl.planner.templates.template import (
    MAX_ANALYSED_TEXT,
    TEMPLATES,
    Template,
    TemplateCache,
    parse_template,
    temporary_templates,
)
from noetl.planner.weighted_cache import WeightedCache


def test_the_entries_that_were_not_used_are_evicted() -> None:
    computed: list[str] = []

    def compute(key: str) -> tuple[str, int]:
        computed.append(key)
        return key.upper(), len(key)

    cache: WeightedCache[str, str] = WeightedCache(12)
    assert [cache.get(key, compute) for key in ("aaa", "bbb", "ccc", "ddd")] == ["AAA", "BBB", "CCC", "DDD"]
    cache.get("aaa", compute)
    cache.get("eee", compute)
    assert (len(cache), cache.weight) == (4, 12)
    cache.get("aaa", compute)
    assert computed == ["aaa", "bbb", "ccc", "ddd", "eee"]
    cache.get("bbb", compute)
    assert computed[-1] == "bbb"
    cache.clear()
    assert (len(cache), cache.weight) == (0, 0)


def test_a_heavy_value_is_not_kept() -> None:
    cache: WeightedCache[str, str] = WeightedCache(12)
    assert cache.get("aaaa", lambda key: (key.upper(), len(key))) == "AAAA"
    assert (len(cache), cache.find("aaaa")) == (0, None)


def test_a_value_may_take_the_whole_cache() -> None:
    cache: WeightedCache[str, str] = WeightedCache(12, 12)
    cache.add("a", "light", 1)
    cache.add("b", "heavy", 12)
    assert (cache.find("a"), cache.find("b"), cache.weight) == (None, "heavy", 12)


def test_a_value_that_is_kept_is_not_replaced() -> None:
    cache: WeightedCache[str, str] = WeightedCache(12)
    cache.add("a", "first", 2)
    cache.add("a", "second", 3)
    assert (cache.find("a"), cache.weight) == ("first", 2)


def test_the_compilations_of_a_service_are_bounded_in_bytes() -> None:
    compiler = PlaybookCompiler(catalogue(), cache_bytes=200_000)
    text = "name: x\nsteps: [{name: a, run: [{action: log, message: ok}]}]\n"
    first = compiler.compile(text)
    assert compiler.compile(text) is first
    for number in range(12):
        compiler.compile(f"{text}# {number}")
    assert compiler.compile(text) is not first
    large = text + "#" * 1000
    assert compiler.compile(large) is not compiler.compile(large)


@pytest.mark.parametrize("length", [100, 10_000])
def test_the_weight_of_a_step_is_at_least_its_memory(length: int) -> None:
    entry = {"action": "log", "message": "x" * length}
    text = json.dumps({"name": "x", "steps": [{"name": "a", "run": [entry] * 20}]})
    plan = compile_playbook(text, catalogue()).plan
    assert plan is not None
    body = json.dumps(plan.steps["a"].to_json())
    tracemalloc.start()
    part = decode_part("step", "a", json.loads(body))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert part == plan.steps["a"]
    assert used <= weigh_part(len(body))


def test_parsed_templates_are_bounded_in_bytes() -> None:
    TEMPLATES.clear()
    for index in range(60):
        parse_template("{{ [" + "1|e," * 1900 + str(index) + "] }}")
    assert TEMPLATES.weight <= template_module.MAX_CACHED_BYTES
    assert 0 < len(TEMPLATES) < 60
    TEMPLATES.clear()


def test_nested_blocks_share_their_templates() -> None:
    with temporary_templates():
        with temporary_templates():
            kept = parse_template("{{ 1 + 1 }}")
        assert parse_template("{{ 1 + 1 }}") is kept
    assert parse_template("{{ 1 + 1 }}") is not kept


def test_templates_are_kept_for_a_later_block_in_its_cache() -> None:
    cache: TemplateCache = WeightedCache(100_000)
    with temporary_templates(cache):
        kept = parse_template("{{ 1 + 1 }}")
        with pytest.raises(TemplateProblem):
            parse_template("{{ 1 + }}")
    with temporary_templates(cache):
        assert parse_template("{{ 1 + 1 }}") is kept
        with pytest.raises(TemplateProblem):
            parse_template("{{ 1 + }}")
    assert len(cache) == 2


def test_short_templates_of_drafts_keep_the_results_of_analyses() -> None:
    cache: TemplateCache = WeightedCache(2**20)
    analysed = []

    def analyse(template: Template) -> None:
        analysed.append(template.source)

    short = "{{ 1 + 1 }}"
    long = short + " " * MAX_ANALYSED_TEXT
    for _ in range(2):
        with temporary_templates(cache):
            for text in (short, long, short, long):
                parse_template(text).result_of(analyse)
    assert analysed == [short, long, long]


@pytest.mark.parametrize(
    "expression", ["[{n}, " + "1|e," * 200 + "1]", "a{n} is defined and " * 200 + "true"]
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
    assert kept < 1024 * 1024
