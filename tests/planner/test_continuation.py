"""The verdict on switches: the conditions of decision 28, each with its counterexamples and its harmless
switches.
"""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path
from textwrap import dedent

import pytest

from noetl.api.service.switches import refuse_switch
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.continuation.judge import ALL_CONDITIONS, SwitchJudge, may_continue
from noetl.planner.continuation.new_version import analyse_version, step_form
from noetl.planner.continuation.playbook import build_continuation
from noetl.planner.continuation.switch_state import Begun, BranchPosition, DoneStep, Switch, SwitchState
from noetl.planner.continuation.verdict import ADVICE, TITLES, SwitchVerdict, explain_code
from noetl.planner.plan import Plan

ONE, TWO = (1, "v1"), (2, "v2")


def compile_steps(text: str) -> Plan:
    """Return the plan of a playbook. A line `a: b c | d` is a step with two cases."""
    compilation = compile_playbook(dedent(text), catalogue())
    assert compilation.plan is not None, compilation.diagnostics
    return compilation.plan


def flow(lines: str, head: str = "input: {}") -> Plan:
    """Return the plan of steps in short form.

    `a +x ?y max=2 join=any > b c | d` saves `x`, reads `y`, and has two cases, of which the first is a fork.
    """
    steps = []
    for line in lines.split("\n"):
        if not line.strip():
            continue
        left, _, right = line.strip().partition(">")
        name, *words = left.split()
        message = " ".join(f"{{{{ {word[1:]} }}}}" for word in words if word[0] == "?") or name
        run = [f"{{action: log, message: '{message}'}}"]
        run += [
            f"{{action: set, set: {{{word[1:]}: '{{{{ run.id }}}}'}}}}" for word in words if word[0] == "+"
        ]
        keys = [word.replace("max=", "max_visits=").replace("=", ": ") for word in words if "=" in word]
        cases = [case.split() for case in right.split("|")] if right else []
        guards = ["'{{ run.id }}'"] * (len(cases) - 1) + ["default"]
        rule = (
            [f"{{case: {g}, run: [{', '.join(case)}]}}" for g, case in zip(guards, cases, strict=bool(cases))]
            if cases
            else []
        )
        body = [f"name: {name}", f"run: [{', '.join(run)}]", *keys]
        if rule:
            body.append(f"rule: [{', '.join(rule)}]")
        steps.append("- {" + ", ".join(body) + "}")
    return compile_steps("name: play\n" + dedent(head) + "\nsteps:\n" + "\n".join(steps) + "\n")


def visiting(step: str, clock: int = 9, **names: tuple[int, str]) -> BranchPosition:
    return BranchPosition(step, clock, names)


def arrived(step: str, **names: tuple[int, str]) -> BranchPosition:
    return BranchPosition(step, 9, names, has_arrived=True)


def done(**visits: int) -> dict[str, DoneStep]:
    """Return done steps with their numbers of visits. Their clocks are in the given order."""
    return {step: DoneStep(number, clock) for clock, (step, number) in enumerate(visits.items(), 1)}


def judge(old: Plan, new: Plan, state: SwitchState, **switch: dict[str, object]) -> SwitchVerdict:
    return may_continue(old, new, state, Switch(**switch), catalogue())  # type: ignore[arg-type]


def codes(verdict: SwitchVerdict) -> list[str]:
    return sorted({reason.code for reason in verdict.reasons})


CHAIN = flow("a > b\nb > c\nc")
DIAMOND = flow("a > b c\nb > d\nc > d\nd")
AT_B = SwitchState((visiting("b"),), done(a=1))

SWITCHES: dict[str, tuple[Plan, Plan, SwitchState, list[str]]] = {
    # K1: no visit is claimed.
    "claimed": (CHAIN, flow("a > c\nc"), SwitchState((visiting("a"),), is_claimed=True), ["NC101"]),
    # K2: every live step is in the new version.
    "step gone": (CHAIN, flow("a > c\nc"), AT_B, ["NC102"]),
    "step renamed": (CHAIN, flow("a > e\ne > c\nc"), AT_B, ["NC102"]),
    "step unreachable": (CHAIN, flow("a > c\nb > c\nc"), AT_B, ["NC102"]),
    # K3: the mode is equal, or one branch is live.
    "mode to parallel": (
        flow("a > b c\nb\nc", "mode: sequential"),
        flow("a > b c\nb\nc"),
        SwitchState((visiting("b"), visiting("c")), done(a=1)),
        ["NC103"],
    ),
    "mode to sequential": (
        flow("a > b c\nb\nc"),
        flow("a > b c\nb\nc", "mode: sequential"),
        SwitchState((visiting("b"), visiting("c")), done(a=1)),
        ["NC103"],
    ),
    "order of branches in line": (
        flow("a > b c\nb\nc", "mode: sequential"),
        flow("a > c b\nb\nc", "mode: sequential"),
        SwitchState((visiting("b"),), done(a=1), in_line=1),
        ["NC103"],
    ),
    "changed history of branches in line": (
        flow("a > b c\nb\nc", "mode: sequential"),
        flow("a > b c d\nb\nc\nd", "mode: sequential"),
        SwitchState((visiting("b"),), done(a=1), in_line=1, follows_order=True),
        ["NC103"],
    ),
    "same history of branches in line": (
        flow("a > b c\nb\nc", "mode: sequential"),
        flow("a > b c\nb > d\nc\nd", "mode: sequential"),
        SwitchState((visiting("b"),), done(a=1), in_line=1, follows_order=True),
        [],
    ),
    "mode with one branch": (
        flow("a > b c\nb\nc"),
        flow("a > b c\nb\nc", "mode: sequential"),
        SwitchState((visiting("c"),), done(a=1, b=1)),
        [],
    ),
    # K4: the counters are derived.
    "fork added upstream": (flow("a > b\nb > d\nd"), flow("a > b c\nb > d\nc > d\nd"), AT_B, []),
    "fork added in a cycle": (
        flow("a max=3 > b\nb > d\nd > a | e\ne"),
        flow("a max=3 > b c\nb > d\nc > d\nd > a | e\ne"),
        AT_B,
        [],
    ),
    # K5, K14: visits and bounds.
    "bound not reached": (flow("a > b\nb > c\nc"), flow("a max=3 > b\nb > a | c\nc"), AT_B, []),
    "bound exceeded in this round": (
        flow("a max=9 > b\nb > a | c\nc"),
        flow("a max=9 > b\nb max=2 > a | c\nc"),
        SwitchState((BranchPosition("b", 9, {}, number=3),), done(b=2, a=3)),
        ["NC116"],
    ),
    # K6: where a branch waits, the new version has a join.
    "arrived at any": (
        DIAMOND,
        flow("a > b c\nb > d\nc > d\nd join=any"),
        SwitchState((arrived("d"), visiting("c")), done(a=1, b=1)),
        ["NC104"],
    ),
    "arrived at a step that has one branch left": (
        DIAMOND,
        flow("a > b c\nb > d\nc > e\nd\ne"),
        SwitchState((arrived("d"), visiting("c")), done(a=1, b=1)),
        [],
    ),
    # K8a: names that only done steps save.
    "name of a done step": (
        flow("a > b\nb > c\nc"),
        flow("a +k > b\nb > c\nc ?k"),
        AT_B,
        ["requires k"],
    ),
    # K7: names come from the history.
    "name that was never read": (
        flow("a +x > b\nb > c\nc"),
        flow("a +x > b\nb > c\nc ?x"),
        SwitchState((visiting("b", x=ONE),), done(a=1)),
        [],
    ),
    "name that the new version does not hand on": (
        flow("a > b d\nb > c d\nc +y > d\nd > e f\ne ?y > f\nf ?y"),
        flow("a > b d\nb > c d\nc +y > e f\nd > e f\ne ?y > f\nf ?y"),
        SwitchState((visiting("d", y=TWO),), done(a=1, b=1, c=1)),
        ["NC113", "requires y"],
    ),
    # K8b: guards are facts.
    "guard of an earlier case": (
        compile_steps(
            """
            name: p
            input: {mode: string}
            steps:
            - {name: a, rule: [{case: "{{ input.mode == 'y' }}", run: [b]}, {case: default, run: [w]}]}
            - {name: b, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [w]}]}
            - {name: w, rule: [{case: "{{ input.mode == 'y' }}", run: [e]}]}
            - {name: e, run: [{action: log, message: "{{ n }}"}]}
            """
        ),
        compile_steps(
            """
            name: p
            input: {mode: string}
            steps:
            - {name: a, rule: [{case: "{{ input.mode == 'x' }}", run: [b]}, {case: default, run: [w]}]}
            - {name: b, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [w]}]}
            - {name: w, rule: [{case: "{{ input.mode == 'x' }}", run: [e]}]}
            - {name: e, run: [{action: log, message: "{{ n }}"}]}
            """
        ),
        SwitchState((visiting("w"),), done(a=1), inputs={"mode": "x"}),
        ["requires n"],
    ),
    # K8c: names that come together.
    "names together": (
        compile_steps(
            """
            name: p
            input: {}
            steps:
            - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [w]}]}
            - {name: w, rule: [{case: "{{ x is defined }}", run: [e]}]}
            - {name: e, run: [{action: log, message: "{{ x }}"}]}
            """
        ),
        compile_steps(
            """
            name: p
            input: {}
            steps:
            - {name: a, run: [{action: set, set: {x: 1, y: 1}}], rule: [{case: default, run: [w]}]}
            - {name: w, rule: [{case: "{{ x is defined }}", run: [e]}]}
            - {name: e, run: [{action: log, message: "{{ y }}"}]}
            """
        ),
        SwitchState((visiting("w", x=ONE),), done(a=1)),
        ["requires y"],
    ),
    # K8d: joins.
    "fork becomes a choice": (
        flow("a > b c\nb > d\nc > d\nd"),
        flow("a > b | c\nb > d\nc > d\nd"),
        SwitchState((visiting("b"), visiting("c")), done(a=1)),
        ["NC107"],
    ),
    # K8e: races. A write before the switch is earlier than all that follow.
    "write of a done sibling": (
        flow("a > b c\nb +x\nc"),
        flow("a > b c\nb\nc +x"),
        SwitchState((visiting("c"),), done(a=1, b=1), frozenset({"x"})),
        [],
    ),
    "writes of two branches": (
        flow("a > b c\nb > d\nc > e\nd\ne"),
        flow("a > b | c\nb > d\nc > e\nd +x\ne +x"),
        SwitchState((visiting("b"), visiting("c")), done(a=1)),
        ["NC114"],
    ),
    # K12: nothing is done twice.
    "done step moved behind": (
        flow("x > a\na > b\nb"),
        flow("a > x\nx > b\nb"),
        SwitchState((visiting("a"),), done(x=1)),
        ["NC105"],
    ),
    "sibling reaches a standing step": (
        flow("a > b c\nb\nc"),
        flow("a > b c\nb\nc > b"),
        SwitchState((visiting("b"), visiting("c")), done(a=1)),
        ["NC105"],
    ),
    "two branches at one step": (
        flow("a > b c\nb > d\nc > d\nd join=each"),
        flow("a > b | c\nb > d\nc > d\nd"),
        SwitchState((visiting("d"), visiting("d")), done(a=1, b=1, c=1)),
        ["NC105"],
    ),
    "done step in the next round": (
        flow("a max=3 > b\nb > a | c\nc"),
        flow("a max=3 > n\nn > b\nb > a | c\nc"),
        AT_B,
        [],
    ),
    "done step in this round": (
        flow("a max=3 > x\nx > b\nb > a | c\nc"),
        flow("a max=3 > b\nb > x\nx > a | c\nc"),
        SwitchState((visiting("b"),), done(a=1, x=1)),
        ["NC105"],
    ),
    # K13: first-come joins.
    "any becomes all": (
        flow("a > b c\nb > d\nc > d\nd join=any"),
        DIAMOND,
        SwitchState((visiting("c"),), done(a=1, b=1, d=1)),
        ["NC105"],
    ),
    "any has fired": (
        flow("a > b c\nb > d\nc > d\nd join=any > e\ne"),
        flow("a > b c\nb > d\nc > n\nn > d\nd join=any > e\ne"),
        SwitchState((visiting("c"),), done(a=1, b=1, d=1, e=1)),
        [],
    ),
    "any leaves its cycle": (
        flow("a max=3 > b c\nb > d\nc > d\nd join=any > a | e\ne"),
        flow("a > b c\nb > d\nc > d\nd join=any > e\ne"),
        SwitchState((visiting("c"),), done(a=1, b=1, d=1)),
        ["NC105", "NC106"],
    ),
    # K16: inputs.
    "new input": (CHAIN, flow("a > b\nb > c\nc ?input.k", "input: {k: integer}"), AT_B, ["requires k"]),
    "type of an input": (
        flow("a > b\nb > c\nc ?input.k", "input: {k: string}"),
        flow("a > b\nb > c\nc ?input.k", "input: {k: integer}"),
        SwitchState((visiting("b"),), done(a=1), inputs={"k": "one"}),
        ["NC112"],
    ),
    "value of an enum": (
        flow("a > b\nb > c\nc ?input.k", "input: {k: string}"),
        flow("a > b\nb > c\nc ?input.k", "input: {k: {type: string, enum: [two]}}"),
        SwitchState((visiting("b"),), done(a=1), inputs={"k": "one"}),
        ["NC112"],
    ),
    "new variable": (CHAIN, flow("a > b\nb > c\nc ?k", "variables: {k: 1}"), AT_B, []),
    # K17: results of done steps.
    "result of a step that was not visited": (
        CHAIN,
        flow("a > n\nn > b\nb > c\nc ?steps.n.result"),
        AT_B,
        ["NC115"],
    ),
    "result of a done step": (
        CHAIN,
        flow("a > b\nb > c\nc ?steps.a.result"),
        SwitchState((BranchPosition("b", 9, {"steps.a": ONE}),), done(a=1)),
        [],
    ),
    # K15: the end.
    "finally has begun": (
        CHAIN,
        flow("a > b\nb > c\nc\nz", "finally: z"),
        SwitchState((visiting("b"),), done(a=1), has_begun_to_end=True),
        ["NC111"],
    ),
    "finally added before": (CHAIN, flow("a > b\nb > c\nc\nz", "finally: z"), AT_B, []),
    "done step becomes finally": (
        flow("z > a\na > b\nb"),
        flow("a > b\nb\nz", "finally: z"),
        SwitchState((visiting("a"),), done(z=1)),
        ["NC105"],
    ),
    "any has fired in sequential mode": (
        flow("a > b c\nb > d\nc > d\nd join=any", "mode: sequential"),
        flow("a > b c\nb > d\nc > n\nn > d\nd join=any", "mode: sequential"),
        SwitchState((visiting("c"),), done(a=1, b=1, d=1)),
        ["NC105"],
    ),
    # Harmless switches.
    "failed step corrected": (CHAIN, flow("a > b\nb +x > c\nc"), AT_B, []),
    "failed step corrected with a join under way": (
        DIAMOND,
        flow("a > b c\nb > d\nc +x > d\nd"),
        SwitchState((arrived("d"), visiting("c")), done(a=1, b=1)),
        [],
    ),
    "upstream changed": (CHAIN, flow("a +x > b\nb > c\nc"), AT_B, []),
    "upstream step inserted": (CHAIN, flow("n > a\na > b\nb > c\nc"), AT_B, []),
    "upstream step deleted": (CHAIN, flow("b > c\nc"), AT_B, []),
    "step inserted before the join": (
        DIAMOND,
        flow("a > b c\nb > d\nc > n\nn > d\nd"),
        SwitchState((arrived("d"), visiting("c")), done(a=1, b=1)),
        [],
    ),
    "step deleted before the join": (
        flow("a > b c\nb > d\nc > n\nn > d\nd"),
        DIAMOND,
        SwitchState((arrived("d"), visiting("c")), done(a=1, b=1)),
        [],
    ),
    "target added to a done fork": (
        DIAMOND,
        flow("a > b c n\nb > d\nc > d\nn > d\nd"),
        SwitchState((arrived("d"), visiting("c")), done(a=1, b=1)),
        [],
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_verdicts(name: str) -> None:
    old, new, state, expected = SWITCHES[name]
    verdict = judge(old, new, state)
    assert codes(verdict) + [f"requires {item.name}" for item in verdict.required] == expected, (
        verdict.to_json()
    )
    assert all(reason.code in TITLES and "@" not in reason.message for reason in verdict.reasons)
    assert all(reason.line for reason in verdict.reasons if reason.step in new.steps)


def work(*entries: str, rest: str = "", tasks: str = "") -> Plan:
    """Return the plan of one step with these entries of `run`."""
    lines = "\n".join(f"  - {entry}" for entry in entries)
    return compile_steps(f"name: p\ninput: {{}}\n{tasks}\nsteps:\n- name: s\n{rest}\n  run:\n{lines}\n")


PAY = '{action: http, method: POST, url: "https://x.test/pay", as: paid}'
RESERVE = '{action: http, method: POST, url: "https://x.test/reserve", as: held}'
WAIT = "{action: wait, seconds: 60}"
SHIP = '{action: log, message: "ship"}'
BAD = '{action: fail, message: "no"}'
CALL = "{task: t}"


def task(*entries: str) -> str:
    return f"tasks:\n- {{name: t, run: [{', '.join(entries)}]}}"


LOOP = "  loop: {items: [1, 2, 3, 4], batch: 2}"
BEGUN_WORK: dict[str, tuple[Plan, Plan, Begun, list[str]]] = {
    # K9: suspended work.
    "inserted first": (work(PAY, WAIT, SHIP), work(RESERVE, PAY, WAIT, SHIP), Begun(True, 1), ["NC109"]),
    "first dropped": (work(PAY, WAIT, SHIP), work(WAIT, SHIP), Begun(True, 1), ["NC109"]),
    "wait becomes callback": (
        work(PAY, WAIT, SHIP),
        work(PAY, "{action: callback}", SHIP),
        Begun(True, 1),
        ["NC109"],
    ),
    "body of a task": (
        work(CALL, WAIT, tasks=task(PAY)),
        work(CALL, WAIT, tasks=task(RESERVE, PAY)),
        Begun(True, 1),
        ["NC109"],
    ),
    "becomes parallel": (
        work(PAY, WAIT, SHIP),
        work(PAY, WAIT, SHIP, rest="  parallel: true"),
        Begun(True, 1),
        ["NC109"],
    ),
    "behind the wait": (work(PAY, WAIT, SHIP), work(PAY, WAIT, RESERVE, SHIP), Begun(True, 1), []),
    "retries": (work(PAY, WAIT, SHIP), work(PAY, WAIT, SHIP, rest="  retry: 3"), Begun(True, 1), []),
    "item added to parallel work": (
        work(PAY, WAIT, rest="  parallel: true"),
        work(PAY, WAIT, SHIP, rest="  parallel: true"),
        Begun(True),
        [],
    ),
    "item dropped from parallel work": (
        work(PAY, WAIT, rest="  parallel: true"),
        work(PAY, rest="  parallel: true"),
        Begun(True),
        ["NC109"],
    ),
    "behind the wait in a task": (
        work(SHIP, CALL, tasks=task(PAY, WAIT)),
        work(SHIP, CALL, tasks=task(PAY, WAIT, RESERVE)),
        Begun(True, 1, inside=(1,)),
        [],
    ),
    "before the wait in a task": (
        work(SHIP, CALL, tasks=task(PAY, WAIT)),
        work(SHIP, CALL, tasks=task(RESERVE, WAIT)),
        Begun(True, 1, inside=(1,)),
        ["NC109"],
    ),
    "shorter than the place": (work(PAY, WAIT), work(PAY), Begun(True, 1), ["NC109"]),
    # K10: loops and rounds.
    "items changed": (
        work(PAY, rest=LOOP),
        work(PAY, rest="  loop: {items: [9, 1, 2, 3, 4], batch: 2}"),
        Begun(True),
        ["NC110"],
    ),
    "loop removed": (work(PAY, rest=LOOP), work(PAY), Begun(True), ["NC110"]),
    "work of items": (work(PAY, rest=LOOP), work(RESERVE, rest=LOOP), Begun(True), ["NC109"]),
    "batch changed": (
        work(PAY, rest=LOOP),
        work(PAY, rest="  loop: {items: [1, 2, 3, 4], batch: 4}"),
        Begun(True),
        [],
    ),
    "rounds used up": (
        work(PAY, rest="  repeat: {until: '{{ paid }}', max: 9}"),
        work(PAY, rest="  repeat: {until: '{{ paid }}', max: 2}"),
        Begun(rounds=2),
        ["NC110"],
    ),
    # K11: an attempt that has begun.
    "other work under its key": (
        work(PAY, BAD),
        work(RESERVE, PAY, SHIP),
        Begun(completed=("run.0",)),
        ["NC109"],
    ),
    "work behind what was completed": (work(PAY, BAD), work(PAY, SHIP), Begun(completed=("run.0",)), []),
    "work that was not completed": (
        work(PAY, BAD),
        work(PAY, RESERVE, SHIP),
        Begun(completed=("run.0",)),
        [],
    ),
}


@pytest.mark.parametrize("name", BEGUN_WORK)
def test_work_that_has_begun(name: str) -> None:
    old, new, begun, expected = BEGUN_WORK[name]
    verdict = judge(old, new, SwitchState((BranchPosition("s", 1, {}, begun=begun),)))
    assert codes(verdict) == expected, verdict.to_json()


def test_loop_whose_items_read_the_environment() -> None:
    loop = "  loop: {items: '{{ environment.ids }}', batch: 2}"
    old = compile_steps(
        f"name: p\ninput: {{}}\nenvironment: {{ids: [1]}}\nsteps:\n- name: s\n{loop}\n  run: [{PAY}]\n"
    )
    new = compile_steps(
        f"name: p\ninput: {{}}\nenvironment: {{ids: [2]}}\nsteps:\n- name: s\n{loop}\n  run: [{PAY}]\n"
    )
    state = SwitchState((BranchPosition("s", 1, {}, begun=Begun(True)),))
    assert codes(judge(old, new, state)) == ["NC110"]


@pytest.mark.parametrize(("items", "expected"), [("'{{ input.ids }}'", ["NC110"]), ("[1, 2]", [])])
def test_loop_whose_items_read_a_given_input(items: str, expected: list[str]) -> None:
    plan = compile_steps(
        f"name: p\ninput: {{ids: array}}\nsteps:\n- name: s\n  loop: {{items: {items}, batch: 2}}\n"
        f"  run: [{PAY}]\n"
    )
    state = SwitchState((BranchPosition("s", 1, {}, begun=Begun(True)),), inputs={"ids": [1]})
    assert judge(plan, plan, state).is_yes
    assert codes(judge(plan, plan, state, given={"ids": [2]})) == expected


IN_PLACE = """
name: p
input: {}
steps:
- name: s
  rule:
  - {case: "{{ run.id }}", run: [%s]}
  - {case: default, run: [%s]}
"""


def test_case_whose_work_is_suspended() -> None:
    old = compile_steps(IN_PLACE % (f"{PAY}, {WAIT}", SHIP))
    state = SwitchState((BranchPosition("s", 1, {}, begun=Begun(True, case=0)),))
    assert codes(judge(old, compile_steps(IN_PLACE % (SHIP, f"{PAY}, {WAIT}")), state)) == ["NC109"]
    assert judge(old, compile_steps(IN_PLACE % (f"{PAY}, {WAIT}", RESERVE)), state).is_yes
    longer = compile_steps(IN_PLACE % (f"{PAY}, {WAIT}, {RESERVE}", SHIP))
    state = SwitchState((BranchPosition("s", 1, {}, begun=Begun(True, 1, case=0)),))
    assert judge(old, longer, state).is_yes


def test_notice_of_an_action_that_is_done_again() -> None:
    state = SwitchState((BranchPosition("s", 1, {}, begun=Begun(completed=("run.0",))),))
    (notice,) = judge(work(PAY, BAD), work(PAY, SHIP), state).notices
    assert (notice.code, notice.step, notice.line) == ("NC151", "s", 8)


def test_notice_of_a_step_that_is_not_made_up_for() -> None:
    (notice,) = judge(*SWITCHES["target added to a done fork"][:3]).notices
    assert (notice.code, notice.step) == ("NC152", "n")


def test_notice_of_a_bound_that_is_reached() -> None:
    old, new = flow("a max=9 > b\nb > a | c\nc"), flow("a max=2 > b\nb > a | c\nc")
    state = SwitchState((BranchPosition("b", 9, {}, number=2),), done(b=1, a=2))
    verdict = judge(old, new, state)
    assert verdict.is_yes
    assert [notice.code for notice in verdict.notices] == ["NC153"]


def test_given_values_make_a_yes() -> None:
    old, new, state, _ = SWITCHES["name of a done step"]
    (required,) = judge(old, new, state).required
    assert (required.name, required.line) == ("k", 6)
    assert judge(old, new, state, given={"k": 1}).is_yes


def test_given_input() -> None:
    old, new, state, _ = SWITCHES["new input"]
    (required,) = judge(old, new, state).required
    assert (required.name, required.type) == ("k", "integer")
    assert judge(old, new, state, given={"k": 1}).is_yes
    assert codes(judge(old, new, state, given={"k": "one"})) == ["NC112"]


def test_given_value_that_is_not_used() -> None:
    assert codes(judge(CHAIN, flow("a > b\nb +x > c\nc"), AT_B, given={"k": 1})) == ["NC118"]


def test_renamed_step() -> None:
    new = flow("a > e\ne > c\nc")
    assert judge(CHAIN, new, AT_B, renamed={"b": "e"}).is_yes
    assert codes(judge(CHAIN, new, AT_B, renamed={"b": "q"})) == ["NC102", "NC117"]
    assert codes(judge(CHAIN, new, AT_B, renamed={"b": "a"})) == ["NC117"]


def test_renamed_step_whose_result_is_read() -> None:
    state = SwitchState((BranchPosition("b", 9, {"steps.a": ONE}),), done(a=1))
    assert judge(CHAIN, flow("e > b\nb > c\nc ?steps.e.result"), state, renamed={"a": "e"}).is_yes


def test_run_without_live_branches() -> None:
    assert codes(judge(CHAIN, flow("a > b\nb > c\nc > d\nd"), SwitchState((), done(a=1, b=1, c=1)))) == [
        "NC111"
    ]


def test_cycle_with_several_entries() -> None:
    old = flow("a > b | c\nb max=2 > c | d\nc > d\nd")
    new = flow("a > b | c\nb max=2 > c | d\nc max=2 > b | d\nd")
    assert codes(judge(old, new, SwitchState((visiting("b"),), done(a=1)))) == ["NC108"]


def test_two_levels_of_loops() -> None:
    old = flow("a max=3 > b\nb max=9 > c\nc > b | d\nd > a | e\ne")
    new = flow("a max=3 > b\nb max=9 > c\nc > b | n\nn > d\nd > a | e\ne")
    state = SwitchState((BranchPosition("c", 9, {}, number=2),), done(a=1, c=1, b=2))
    assert judge(old, new, state).is_yes
    moved = flow("a max=3 > c\nc > b | d\nb max=9 > c\nd > a | e\ne")
    assert not judge(old, moved, SwitchState((visiting("d"),), done(a=1, b=1, c=1))).reasons


def test_old_text_cannot_be_analysed() -> None:
    new = Plan(CHAIN.header, CHAIN.steps, CHAIN.tasks, source="name: [")
    new = Plan(new.header, {**new.steps, "z": new.steps["c"]}, new.tasks, new.source)
    assert codes(judge(CHAIN, new, AT_B)) == ["NC119"]


def test_codes_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/continuation.md").read_text()
    documented = re.findall(r"^\| (NC\d+) \| ([^|]+) \|", page, re.MULTILINE)
    assert dict(documented) == dict(TITLES)
    advice = re.findall(r"^\| (NC\d+) \| [^|]+ \| ([^|]+) \|", page, re.MULTILINE)
    assert dict(advice) == dict(ADVICE)


def test_codes_are_explained() -> None:
    assert explain_code("NC105").startswith("# NC105: a step would be done twice\n")
    assert "**Severity:** note." in explain_code("NC151")


def test_verdict_as_json() -> None:
    verdict = judge(*SWITCHES["step gone"][:3])
    message = "step `b` has begun and is not in the new version"
    assert verdict.to_json() == {
        "may_continue": False,
        "reasons": [{"code": "NC102", "message": message, "step": "b", "line": None}],
        "required": [],
        "notices": [],
    }


def test_result_of_a_step_that_one_branch_has_visited() -> None:
    old = flow("a > b c\nb > d\nc > e\nd\ne")
    new = flow("a > b c\nb > d\nc > e\nd ?steps.b.result\ne")
    at_d = BranchPosition("d", 9, {"steps.a": ONE, "steps.b": TWO})
    state = SwitchState((at_d, visiting("c")), done(a=1, b=1))
    changed = flow("z > a\na > b c\nb > d\nc > e\nd ?steps.b.result\ne")
    assert judge(old, new, state).is_yes
    assert judge(old, changed, state).is_yes
    elsewhere = SwitchState((visiting("d"), BranchPosition("c", 9, {"steps.b": TWO})), done(a=1, b=1))
    assert codes(judge(old, changed, elsewhere)) == ["NC115"]


def test_input_with_the_name_that_synthetic_steps_use() -> None:
    old = flow("a > b\nb > c\nc", "input: {carried: {type: any, default: 1}}")
    new = flow("z > a\na +x > b\nb > c\nc ?x", "input: {carried: {type: any, default: 1}}")
    state = SwitchState((visiting("b", x=ONE),), done(a=1), frozenset({"y"}))
    assert judge(old, new, state).is_yes


def test_names_of_ended_branches_are_seen_by_the_output() -> None:
    head = "input: {}\noutput: {k: '{{ k }}'}"
    old = flow("a > b c\nb +k\nc", head)
    new = flow("z > a\na > b c\nb +k\nc", head)
    state = SwitchState((visiting("c"),), done(a=1, b=1), frozenset({"k"}))
    assert judge(old, new, state).is_yes
    assert [item.name for item in judge(old, new, SwitchState(state.branches, state.done)).required] == ["k"]


def test_races_in_the_round_under_way() -> None:
    old = flow("a max=3 > b c\nb > d\nc > d\nd > a | e\ne")
    new = flow("a max=3 > b | c\nb > d\nc > d\nd > a | e\ne")
    state = SwitchState((visiting("b"), visiting("c")), done(a=1))
    assert codes(judge(old, new, state)) == ["NC107"]


def test_step_with_work_in_its_cases() -> None:
    case = "{case: default, run: [{action: log, message: end}]}"
    new = compile_steps(
        f"""
        name: p
        input: {{}}
        steps:
        - {{name: a, max_visits: 3, rule: [{{case: default, run: [b]}}]}}
        - {{name: b, rule: [{{case: "{{{{ run.id }}}}", run: [{{step: a}}]}}, {case}]}}
        """
    )
    assert judge(CHAIN, new, SwitchState((visiting("b"),), done(a=1))).is_yes


def test_bound_of_another_step_of_the_round() -> None:
    old = flow("a max=9 > b\nb > c\nc > a | d\nd")
    new = flow("a max=9 > b\nb > c\nc max=2 > a | d\nd")
    state = SwitchState((BranchPosition("b", 9, {}, number=3),), {"c": DoneStep(2, 6), "a": DoneStep(3, 7)})
    assert codes(judge(old, new, state)) == ["NC116"]


def test_more_branches_than_a_fork_may_have() -> None:
    old, new = flow("a > b b2\nb > d\nb2 > d\nd join=each"), flow("a > b b2\nb +x > d\nb2 > d\nd join=each")
    branches = tuple(visiting("d", clock) for clock in range(1_001))
    state = SwitchState(branches, done(a=1, b=1, b2=1))
    assert codes(judge(old, new, state)) == ["NC119"]


@pytest.mark.parametrize(("value", "fits"), [(True, True), (1, False)])
def test_type_of_a_boolean(value: object, *, fits: bool) -> None:
    new = flow("a > b\nb > c\nc ?input.k", "input: {k: boolean}")
    old = flow("a > b\nb > c\nc ?input.k", "input: {k: any}")
    state = SwitchState((visiting("b"),), done(a=1), inputs={"k": value})
    assert judge(old, new, state).is_yes is fits


def test_any_in_a_cycle_that_has_fired_in_this_round() -> None:
    old = flow("a max=3 > b c\nb > d\nc > d\nd join=any > e\ne > a | f\nf")
    new = flow("a max=3 > b c\nb > d\nc > n\nn > d\nd join=any > e\ne > a | f\nf")
    state = SwitchState(
        (BranchPosition("c", 4, {"steps.a": ONE}), BranchPosition("e", 5, {"steps.a": ONE})),
        {"a": DoneStep(1, 1), "b": DoneStep(1, 2), "d": DoneStep(1, 3)},
    )
    assert not {"NC105", "NC106"} & {*codes(judge(old, new, state))}


def test_reason_as_json() -> None:
    old, new, state, _ = SWITCHES["name of a done step"]
    assert judge(old, new, state).to_json()["required"] == [{"name": "k", "type": "any", "line": 6}]


CODES_OF = {
    "mode": {"NC103"},
    "arrivals": {"NC104"},
    "repeats": {"NC105"},
    "discriminators": {"NC106"},
    "joins": {"NC107"},
    "work": {"NC109", "NC110"},
    "names": {"NC113", "NC115"},
    "races": {"NC114"},
    "bounds": {"NC116"},
}


@pytest.mark.parametrize("condition", [*CODES_OF, None])
def test_a_condition_that_is_switched_off_gives_no_reason(condition: str | None) -> None:
    left = ALL_CONDITIONS - {condition} if condition else frozenset()
    silent = CODES_OF[condition] if condition else set().union(*CODES_OF.values())
    assert CODES_OF.keys() == ALL_CONDITIONS
    for old, new, state, _ in SWITCHES.values():
        judge_of_rest = SwitchJudge(old, new, state, Switch(), left)
        assert silent.isdisjoint(codes(judge_of_rest.judge(catalogue())))


ANY = flow("a > b c\nb > d\nc > d\nd join=any > e\ne")


def test_a_renamed_discriminator_that_has_fired_is_no_end() -> None:
    new = flow("a > b c\nb > x\nc > x\nx join=any > e\ne")
    state = SwitchState((visiting("c"), visiting("e")), done(a=1, b=1, d=1))
    assert codes(judge(ANY, ANY, state)) == []
    assert "NC106" in codes(judge(ANY, new, state, renamed={"d": "x"}))


def test_a_discriminator_moves_into_a_cycle() -> None:
    new = flow("h max=3 > b c\na > h\nb > d\nc > d\nd join=any > h | e\ne").source
    plan = compile_steps(new.replace("steps:\n- {name: h", "start: a\nsteps:\n- {name: h"))
    state = SwitchState((visiting("c"), visiting("e")), done(a=1, b=1, d=1))
    assert "NC106" in codes(judge(ANY, plan, state))


def test_completed_actions_behind_the_end_of_the_new_work_are_not_compared() -> None:
    old = compile_steps(
        "name: p\nsteps: [{name: a, run: [{action: log, message: x}, {action: log, message: y},"
        " {action: fail, message: z}]}]"
    )
    new = compile_steps("name: p\nsteps: [{name: a, run: [{action: log, message: x}]}]")
    begun = Begun(completed=("run.0", "run.1"))
    verdict = judge(old, new, SwitchState((BranchPosition("a", 1, {}, begun=begun),)))
    assert verdict.is_yes
    assert [notice.code for notice in verdict.notices] == ["NC151"]


TASKS = """
name: p
input: {}
tasks: [{name: t, run: [{action: log, message: MESSAGE}]}]
steps:
- {name: a, run: [{task: t}], rule: [{case: default, run: [b]}]}
- {name: b, run: [{action: log, message: y}]}
"""


@pytest.mark.parametrize("message", ["x", "y"])
def test_a_task_of_a_done_step_may_change(message: str) -> None:
    old, new = compile_steps(TASKS.replace("MESSAGE", "x")), compile_steps(TASKS.replace("MESSAGE", message))
    assert judge(old, new, AT_B).is_yes


FORMS = """
name: p
input: {{}}
steps:
- name: a
  run: [{action}]
  rule: [{{case: "{{{{ result.data }}}}", run: [b]}}, {{case: error, run: []}}]
- {{name: b, run: [{{action: log, message: y}}]}}
"""


@pytest.mark.parametrize(
    ("before", "after", "is_equal"),
    [
        ("{action: log, message: x}", "{action: log, message: another}", True),
        ("{action: log, message: 'x {{ run.id }}'}", "{action: log, message: '{{ run.id }} y'}", True),
        ("{action: log, message: 'x {{ run.id }}'}", "{action: log, message: 'x {{ run.playbook }}'}", False),
        ("{action: log, message: 'x {{ run.id }}'}", "{action: log, message: x}", False),
        ("{action: log, message: x}", "{action: log, message: [x]}", False),
        ("{action: log, message: x, level: info}", "{action: log, message: x, level: error}", False),
        ("{action: log, message: x}", "{action: log, message: x, if: '{{ run.id }}'}", False),
        ("{action: shell, command: 'true'}", "{action: shell, command: 'false'}", True),
        ("{action: shell, command: 'true'}", "{action: log, message: 'true'}", False),
        ("{action: set, set: {n: a}}", "{action: set, set: {n: b}}", False),
        ("{action: fail, type: A, message: m}", "{action: fail, type: B, message: m}", False),
        ("{action: file, read: a, format: json}", "{action: file, read: b, format: json}", True),
        ("{action: file, read: a, format: json}", "{action: file, read: a, format: text}", False),
        ("{action: wait, seconds: 5}", "{action: wait, seconds: 6}", False),
    ],
)
def test_only_texts_of_a_done_step_may_change(before: str, after: str, *, is_equal: bool) -> None:
    """Analyses of a step depend on neither commands nor messages."""
    known = catalogue()
    old, new = (compile_steps(FORMS.format(action=action)) for action in (before, after))
    assert (step_form(old, "a", known) == step_form(new, "a", known)) is is_equal


def test_steps_that_no_branch_reaches_are_left_out() -> None:
    """A name that only they save is still a name, and so is the step of which a field is read."""
    old = flow("a +x > b\nb > c d\nc > e\nd > e\ne > f\nf")
    new = flow("a +x +y > b\nb +z > c d\nc > e\nd > e\ne > f\nf ?x ?y ?steps.b.status")
    known = catalogue()
    version = analyse_version(new, known)
    assert version is not None
    state = SwitchState((visiting("e", x=ONE),), done(a=1, b=1, c=1, d=1))
    continuation = build_continuation(version.program, version.loops, state)
    assert continuation.program is not None
    assert set(continuation.program.symbols.steps) == {"b", "e", "f", "@start", "@branch 0", "@unreached"}
    verdict = judge(old, new, state)
    assert [required.name for required in verdict.required] == ["y"]


def test_a_reason_names_the_step_and_not_its_copy() -> None:
    old = flow("a max=3 > b\nb > c\nc > a | e\ne")
    new = flow("a max=3 +x > b\nb > c\nc ?x > a | e\ne")
    verdict = judge(old, new, AT_B)
    assert [required.name for required in verdict.required] == ["x"]
    state = SwitchState((visiting("b", x=ONE), visiting("c")), done(a=1))
    assert all("'" not in reason.message for reason in judge(old, new, state).reasons)


def test_any_in_a_cycle_that_has_fired_in_an_earlier_round() -> None:
    old = flow("a max=3 > b c\nb > d\nc > d\nd join=any > e\ne > a | f\nf")
    state = SwitchState(
        (BranchPosition("b", 8, {"steps.a": (7, "v7")}), BranchPosition("c", 8, {"steps.a": (7, "v7")})),
        {"a": DoneStep(2, 7), "b": DoneStep(1, 2), "d": DoneStep(1, 3), "e": DoneStep(1, 4)},
    )
    assert judge(old, old, state).is_yes


def test_a_cycle_whose_step_has_a_case_without_steps() -> None:
    text = """
        name: p
        input: {}
        steps:
        - {name: a, max_visits: 3, run: [{action: log, message: x}], rule: [{case: default, run: [b]}]}
        - name: b
          run: [{action: log, message: y}]
          rule: [{case: "{{ run.id == 'x' }}"}, {case: default, run: [a]}]
    """
    old, new = compile_steps(text), compile_steps(text.replace("message: x", "message: z"))
    assert judge(old, new, AT_B).is_yes


LIMITS = ("", "1", "{limit: 5, key: '{{ run.id }}'}", "[{use: crm}, {limit: 2}]")


@pytest.mark.parametrize(("before", "after"), [*permutations(LIMITS, 2)])
def test_limits_may_change(before: str, after: str) -> None:
    def limited(limits: str) -> Plan:
        line = f"concurrency: {limits}" if limits else "description: x"
        return compile_steps(
            f"""
            name: play
            input: {{}}
            {line}
            steps:
            - name: a
              {line}
              run: [{{action: wait, seconds: 60}}, {{action: log, message: x}}]
              rule: [{{case: default, run: [b]}}]
            - {{name: b, {line}, run: [{{action: log, message: x}}]}}
            """
        )

    old, new = limited(before), limited(after)
    for begun in (None, Begun(True, 0), Begun(False, completed=("run.0",))):
        state = SwitchState((BranchPosition("a", 9, {}, begun=begun),))
        assert codes(judge(old, new, state)) == []


def test_thousands_of_wrong_names_are_a_hundred_reasons() -> None:
    given: dict[str, object] = {f"k{number}": 1 for number in range(20_000)}
    verdict = judge(CHAIN, flow("a > b\nb +x > c\nc"), AT_B, given=given)
    assert (codes(verdict), len(verdict.reasons)) == (["NC118"], 100)
    renamed: dict[str, object] = {f"k{number}" * 1000: "b" for number in range(1_000)}
    verdict = judge(CHAIN, flow("a > b\nb +x > c\nc"), AT_B, renamed=renamed)
    assert len(verdict.reasons) == 100
    assert len(str(verdict.to_json())) < 20_000


def test_of_thousands_of_missing_values_a_hundred_are_listed() -> None:
    names = "".join(f"  k{number}: string\n" for number in range(5_000))
    verdict = judge(CHAIN, flow("a > b\nb > c\nc", f"input:\n{names}"), AT_B)
    assert (verdict.is_yes, len(verdict.required), verdict.more_required) == (False, 100, 4_900)
    assert verdict.to_json()["more_required"] == 4_900
    message = refuse_switch("r", verdict).message
    assert "`k9` (line 12) and 4,990 more" in message
    assert len(message) < 400
