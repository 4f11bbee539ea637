"""Dry runs: what a run would do, compared with what random runs do."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from noetl.executor.actions import catalogue, temporary_types
from noetl.executor.engine import dry_run
from noetl.executor.engine.dry_run import MAX_ACTIONS, DryRun, PlannedAction, walk_plan
from noetl.executor.engine.known_values import UnknownValue, is_known, shown_value
from noetl.executor.engine.start import new_run
from noetl.executor.errors import ActionError
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.redaction import MASK
from noetl.executor.security.secret_sources import SecretReference
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.plan import Plan
from noetl.testing.actions import ScriptedAction
from noetl.testing.run_harness import RunHarness, compile_text
from tests.executor.fake_handler import PROBE

RUNS_OF_EACH = 3


def walk(text: str | Plan, **input: Any) -> DryRun:
    """Return the dry run of a playbook."""
    plan = compile_text(text) if isinstance(text, str) else text
    run, _ = new_run(plan.header, plan.hash, StartRequest(input), now=0.0)
    return walk_plan(plan, run, catalogue())


def shown(dry: DryRun) -> list[str]:
    """Return what a dry run says of its steps, in short."""
    return [
        f"{'' if step.is_certain else 'perhaps '}{step.name}: "
        + ", ".join(
            f"{'' if case.is_certain else 'perhaps '}{'+'.join(case.targets) or 'end'}" for case in step.cases
        )
        for step in dry.steps
    ]


def parameters(dry: DryRun, position: int = 0, step: int = 0) -> Any:
    """Return the parameters of an action of a step, as they are shown."""
    return shown_value(dry.steps[step].actions[position].parameters)


def random_playbook(chance: random.Random) -> str:
    """Return the text of a random playbook over a few names. It may be invalid."""
    names = ["a", "b", "c"]

    def expression() -> str:
        name = chance.choice(names)
        return chance.choice(
            [f"{name} | default(1)", f"({name} | default(2)) + 1", "k", "k + 1", f"[{name} | default(0), k]"]
        )

    def work() -> str:
        name = chance.choice(names)
        condition = f', if: "{{{{ {guard()} }}}}"' if chance.random() < 0.3 else ""
        return chance.choice(
            [
                f'{{action: set, set: {{{name}: "{{{{ {expression()} }}}}"}}{condition}}}',
                f'{{action: probe, say: "{{{{ {expression()} }}}} of {{{{ k }}}}", as: {name}{condition}}}',
                f'{{action: fail, message: "{{{{ k }}}}"{condition}}}'
                if condition
                else "{action: probe, say: 1}",
                f'{{action: set, set: {{{name}: "{{{{ item }}}}"}}, loop: {{items: [1, 2]}}}}',
            ]
        )

    def guard() -> str:
        name = chance.choice(names)
        return chance.choice(
            [
                f"({name} | default(1) | string) == '1'",
                "k > 1",
                f"{name} is defined",
                f"not {name} is defined",
            ]
        )

    count = chance.randrange(2, 6)
    steps = []
    for index in range(count):
        later = [f"s{number}" for number in range(index + 1, count)]
        pool = later if chance.random() < 0.8 or not index else [*later, f"s{chance.randrange(index + 1)}"]
        cases = []
        for _ in range(chance.randrange(3) if pool else 0):
            test = chance.choice([guard(), guard(), "error is defined and error"])
            targets = ", ".join(chance.sample(pool, min(len(pool), chance.choice([1, 1, 2]))))
            cases.append(f'{{case: "{{{{ {test} }}}}", run: [{targets}]}}')
        if pool and (cases or chance.random() < 0.9):
            cases.append(f"{{case: default, run: [{chance.choice(pool)}]}}")
        actions = ", ".join(work() for _ in range(chance.randrange(1, 4)))
        rule = f", rule: [{', '.join(cases)}]" if cases else ""
        steps.append(f"- {{name: s{index}, max_visits: 3, run: [{actions}]{rule}}}")
    return "name: p\ninput: {k: integer}\nsteps:\n" + "\n".join(steps)


def compile_random(chance: random.Random) -> Plan:
    """Return the plan of a random playbook that has no errors."""
    while True:
        compiled = compile_playbook(random_playbook(chance), catalogue())
        if compiled.plan and all(d.severity is not Severity.ERROR for d in compiled.diagnostics):
            return compiled.plan


def random_answers(chance: random.Random) -> Callable[[Any], Any]:
    """Return a handler that returns or fails by chance."""

    def answer(call: Any) -> Any:
        if chance.random() < 0.2:
            raise ActionError("Refused", "by chance", retryable=False)
        return chance.choice([1, 2, call.parameters["say"]])

    return answer


def check_run(dry: DryRun, harness: RunHarness) -> None:
    """Check that a dry run contains all that a run did, and that the run did all that was certain."""
    steps = {step.name: step for step in dry.steps}
    planned: dict[tuple[str, str], list[PlannedAction]] = {}
    for step in dry.steps:
        for action in step.actions:
            planned.setdefault((step.name, action.position), []).append(action)
    assert harness.visit_counts.keys() <= steps.keys()
    for event in harness.events:
        if event.type == "action.started":
            place = (event.step or "", str(event.payload["position"]).partition("[")[0])
            if steps[place[0]].problem is not None:
                continue
            assert place in planned, place
            for name, value in (event.payload.get("input") or {}).items():
                values = [action.parameters[name] for action in planned[place]]
                assert value in values or not all(map(is_known, values)), (place, name, value, values)
    if not any(visit.error for visit in harness.visits):
        assert {step.name for step in dry.steps if step.is_certain} <= harness.visit_counts.keys()
    for visit in harness.visits:
        certain = [case.number - 1 for case in steps[visit.step].cases if case.is_certain]
        if certain and visit.case is not None and visit.error is None:
            assert visit.case == certain[0]
        if visit.case is not None:
            assert visit.case + 1 in [case.number for case in steps[visit.step].cases]


@pytest.mark.parametrize("seed", range(60))
def test_a_dry_run_contains_what_random_runs_do(seed: int) -> None:
    chance = random.Random(seed)
    with temporary_types(ScriptedAction(PROBE, answer=random_answers(chance))):
        plan = compile_random(chance)
        for k in (0, 2):
            dry = walk(plan, k=k)
            for _ in range(RUNS_OF_EACH):
                check_run(dry, RunHarness(MemoryStore(), plan, {"k": k}).finish())


def test_known_guards_decide_and_unknown_guards_leave_both_cases() -> None:
    text = """
    input: {n: number}
    steps:
    - name: a
      run: [{action: set, set: {m: "{{ n * 2 }}"}}]
      rule: [{case: "{{ m > 9 }}", run: [big]}, {case: default, run: [b]}]
    - {name: big, run: [{action: log, message: big}]}
    - name: b
      run: [{action: file, read: "{{ m }}.txt", as: text}]
      rule: [{case: "{{ text == 'x' }}", run: [c]}, {case: "{{ m == 2 }}", run: [d, e]}]
    - {name: c, run: [{action: log, message: "{{ text }} of {{ m }}"}]}
    - {name: d, run: [{action: log, message: d}]}
    - {name: e, run: [{action: log, message: e}]}
    """
    dry = walk(text, n=1)
    assert shown(dry) == ["a: b", "b: perhaps c, perhaps d+e", "perhaps c: ", "perhaps d: ", "perhaps e: "]
    assert parameters(dry, step=1) == {"read": "2.txt"}
    assert parameters(dry, step=2) == {"message": "{{ text }} of 2"}
    assert shown(walk(text, n=5)) == ["a: big", "big: "]


def test_values_are_written_in_the_language_of_the_parameter() -> None:
    text = """
    input: {who: string}
    steps:
    - name: a
      run:
      - {action: shell, command: "echo {{ who }}"}
      - {action: http, url: "https://example.com/{{ who }}"}
      - {action: postgres, connection: "{{ secrets.DSN }}", query: "insert into t values ({{ who }})"}
    """
    dry = walk(text, who="a b")
    assert parameters(dry, 0) == {"command": "echo 'a b'"}
    assert parameters(dry, 1) == {"url": "https://example.com/a%20b"}
    assert parameters(dry, 2) == {"connection": "{{ secrets.DSN }}", "query": 'insert into t values ("a b")'}


def test_a_cycle_is_walked_once_with_unknown_names() -> None:
    text = """
    variables: {n: 0}
    steps:
    - name: a
      max_visits: 3
      run: [{action: set, set: {n: "{{ n + 1 }}"}}]
      rule:
      - {case: "{{ error and error.type == 'X' }}", run: [b]}
      - {case: "{{ n < 2 }}", run: [a]}
      - {case: default, run: [b]}
    - {name: b, run: [{action: log, message: "{{ n }} times"}]}
    """
    dry = walk(text)
    assert shown(dry) == ["a: perhaps b, perhaps a, perhaps b", "perhaps b: "]
    assert parameters(dry, step=1) == {"message": "{{ n }} times"}


def test_a_known_failure_is_a_problem_and_takes_the_case_that_handles_it() -> None:
    text = """
    input: {n: number}
    steps:
    - name: a
      run:
      - {action: fail, if: "{{ n > 1 }}", message: "{{ n }} is too much"}
      - {action: set, set: {x: "{{ 1 / n }}"}}
      rule: [{case: "{{ error }}", run: [b]}, {case: default, run: [c]}]
    - {name: b, run: [{action: log, message: "{{ steps.a.error.message }}"}]}
    - {name: c, run: [{action: log, message: "{{ x }}"}]}
    """
    failing = walk(text, n=2)
    assert failing.steps[0].problem == "2 is too much"
    assert shown(failing) == ["a: perhaps b", "perhaps b: "]
    assert walk(text, n=0).steps[0].problem == "`set`: division by zero"
    assert shown(walk(text, n=1)) == ["a: c", "c: "]


def test_only_the_first_items_of_a_loop_are_walked() -> None:
    text = """
    steps:
    - name: a
      loop: {items: "{{ range(10) | list }}"}
      run: [{action: log, message: "{{ item }}"}, {action: set, set: {last: "{{ item }}"}},
        {action: log, message: "{{ last }}"}]
      rule: [{case: default, run: [b]}]
    - name: b
      run:
      - {action: file, list: "*.csv", as: files}
      - {action: log, message: "{{ file }}", loop: {items: "{{ files }}", as: file}}
    """
    dry = walk(text)
    assert [shown_value(action.parameters) for action in dry.steps[0].actions if action.type == "log"] == [
        {"message": item} for item in (0, 0, 1, 1, 2, 2)
    ]
    assert dry.steps[0].more_items == {"run": 7}
    assert dry.steps[1].actions[1].item == UnknownValue("{{ file }}")
    assert parameters(dry, 1, step=1) == {"message": "{{ file }}"}


def test_tasks_and_actions_that_are_parameters_are_walked() -> None:
    text = """
    tasks:
    - name: ask
      run:
      - {action: callback, title: "{{ args.title }}", notify: {action: log, message: "{{ callback.url }}"}}
    steps:
    - name: a
      run:
      - {action: file, read: x, as: text}
      - {task: ask, with: {title: "Pay {{ text }}?"}, as: answer}
      - {action: log, message: "{{ answer }}"}
    finally: z
    """
    text = text.replace(
        "    finally: z\n", "    - {name: z, run: [{action: log, message: end}]}\n    finally: z\n"
    )
    dry = walk(text)
    assert [(action.type, action.position) for action in dry.steps[0].actions] == [
        ("file", "run.0"),
        ("callback", "run.1/ask.0"),
        ("log", "run.1/ask.0~"),
        ("log", "run.2"),
    ]
    assert parameters(dry, 1) == {"title": "Pay {{ text }}?"}
    assert parameters(dry, 3) == {"message": "{{ answer }}"}
    assert dry.steps[-1].name == "z"


def test_a_walk_with_too_many_actions_ends() -> None:
    calls = ", ".join(["{task: t1}"] * 50)
    more = ", ".join(["{action: log, message: x}"] * 50)
    text = f"""
    tasks: [{{name: t0, run: [{calls}]}}, {{name: t1, run: [{more}]}}]
    steps: [{{name: a, run: [{{task: t0}}]}}]
    """
    dry = walk(text)
    assert dry.is_cut
    assert len(dry.steps[0].actions) == MAX_ACTIONS


def test_a_value_is_known_only_if_all_its_parts_are() -> None:
    assert not is_known(list(range(20_000)))
    assert shown_value([SecretReference("KEY"), {"a": UnknownValue("{{ a }}")}]) == [MASK, {"a": "{{ a }}"}]


def test_a_step_to_which_only_the_way_back_of_a_cycle_leads_is_walked() -> None:
    text = """
    steps:
    - name: a
      run: [{action: file, read: x, as: x}]
      rule: [{case: "{{ true }}", run: [c]}, {case: default, run: [b]}]
    - {name: b, max_visits: 3, run: [{action: log, message: b}], rule: [{case: default, run: [c]}]}
    - {name: c, max_visits: 3, run: [{action: file, read: y, as: y}], rule: [{case: "{{ y }}", run: [b]}]}
    """
    assert [step.name for step in walk(text).steps] == ["a", "c", "b"]


def test_actions_with_a_cache_say_so() -> None:
    dry = walk("""
        steps:
        - name: a
          cache: 2h
          run: [{action: http, url: "https://x.test", cache: 1h}, {action: log, message: x}]
          rule: [{case: default, run: [{action: log, message: y}, {action: log, message: z, cache: 5s}]}]
    """)
    assert [action.cache_seconds for action in dry.steps[0].actions] == [7200.0, 7200.0, None, 5.0]


GROWING = r"{{ ['\x01' * 4000000 ~ '\U0001f600'] * 4 }}"


@pytest.mark.parametrize(
    "work",
    [
        r"{action: postgres, connection: c, query: 'select {{ x }} + 1'}",
        r"{action: shell, command: 'echo {{ x }}'}",
        r"{action: http, url: 'http://a/{{ x }}'}",
        r"{action: shell, command: 'echo {{ y * 1000 }}'}",
        r"{action: log, message: '" + "{{ y * 1000 }} " * 9 + "'}",
    ],
)
def test_a_text_that_would_be_too_long_is_not_written(work: str) -> None:
    save = f'{{action: set, set: {{x: "{GROWING}", y: "{{{{ \'y\' * 1000 }}}}"}}}}'
    text = f"steps: [{{name: a, run: [{save}, {work}]}}]"
    tracemalloc.start()
    try:
        dry = walk(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "longer than" in (dry.steps[0].problem or "")
    assert peak < 64_000_000


def test_unknown_arguments_do_not_grow_without_end() -> None:
    tasks = ", ".join(
        f"t{n}: [{{task: t{n + 1}, with: {{v: '{{{{ args.v }}}} {{{{ args.v }}}}'}}}}]" for n in range(30)
    )
    end = "t30: [{action: log, message: '{{ args.v }}'}]"
    work = "{task: t0, with: {v: 'a {{ uuid() }}'}}"
    shown_message = parameters(walk(f"tasks: {{{tasks}, {end}}}\nsteps: [{{name: a, run: [{work}]}}]"))[
        "message"
    ]
    assert len(shown_message) < 9_000_000


def test_a_walk_ends_when_it_shows_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "MAX_CHARACTERS", 2_000)
    work = ", ".join("{action: set, set: {x: [1, \"{{ 'x' * 500 }}\"], y: 1}}" for _ in range(9))
    dry = walk(f"steps: [{{name: a, run: [{work}]}}]")
    assert dry.is_cut
    assert len(dry.steps[0].actions) == 3
