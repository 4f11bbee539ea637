"""Scenarios of the crash matrix: each playbook with the end that its run must have, whatever fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from noetl.executor.model.run import RunStatus
from noetl.planner.plan import Plan
from noetl.testing.run_harness import compile_text

WORK = (
    """{action: log, level: debug, message: "{{ step.idempotency_key }}","""
    """ fields: {attempt: "{{ step.attempt }}"}}"""
)
"""Work that must not be lost, and whose performances the simulation counts."""

SEND_TOKEN = "{action: log, level: debug, message: token, fields: {token: '{{ callback.token }}'}}"
"""Notification of a callback, which sends the token to the simulation."""

CHILD = """
    name: child
    input: {n: integer}
    steps:
    - {name: a, run: [WORK, {action: wait, seconds: "{{ n }}"}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [WORK, {action: set, set: {half: "{{ 14 / n }}"}}]}
"""


@dataclass(frozen=True)
class OperatorAct:
    """Command of an operator once the run has a status: `cancel`, `resume`, `pause` or `unpause`."""

    status: RunStatus
    command: str
    input: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """A playbook, the commands of operators, and the end of the run.

    With `answers_before_commit`, callbacks are answered just before the commit that suspends their step.
    With `may_interrupt` (`at_most_once`), the end depends on faults, and only the invariants are checked.
    With `renews_claims`, the claim of a step is renewed during each of its actions. With `is_fired`, the
    trigger of the playbook starts the run. With `has_entries`, the start and each end of the run write an
    entry into the outbox. With `has_limits`, gates are checked after every round. With `earlier_input`, a
    start with this input comes before that of the run, which joins it. With `has_earlier_run`, another run of
    the playbook is started before. With `has_cache`, work whose claim is lost may have saved its result. The
    next claim takes it without the events of its actions.
    """

    name: str
    text: str
    status: RunStatus = RunStatus.SUCCEEDED
    result: Any = None
    errors: tuple[str, ...] = ()
    acts: tuple[OperatorAct, ...] = ()
    input: Mapping[str, Any] = field(default_factory=dict)
    answers_before_commit: bool = False
    may_interrupt: bool = False
    renews_claims: bool = False
    is_fired: bool = False
    has_entries: bool = False
    has_limits: bool = False
    earlier_input: Mapping[str, Any] | None = None
    has_earlier_run: bool = False
    has_cache: bool = False

    @cached_property
    def plan(self) -> Plan:
        return compile_text(self.text.replace("WORK", WORK).replace("SEND_TOKEN", SEND_TOKEN))


CANCEL = OperatorAct(RunStatus.WAITING, "cancel")
PAUSE = OperatorAct(RunStatus.WAITING, "pause")
UNPAUSE = OperatorAct(RunStatus.PAUSED, "unpause")
SCENARIOS = (
    Scenario(
        "chain",
        """
        steps:
        - {name: a, run: [WORK, {action: set, set: {x: 1}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK, {action: set, set: {y: "{{ x + 1 }}"}}], rule: [{case: default, run: [c]}]}
        - {name: c, run: [WORK, {action: set, set: {z: "{{ [x, y, uuid() | length] }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": [1, 2, 36]},
    ),
    Scenario(
        "trigger",
        """
        name: fired
        input: {n: integer}
        triggers: [{name: t, type: schedule, every: 1h, input: {n: 3}}]
        steps:
        - {name: a, run: [WORK, {action: set, set: {x: "{{ n + 1 }}"}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK, {action: set, set: {y: "{{ run.trigger.name }}"}}]}
        output: {x: "{{ x }}", y: "{{ y }}"}
        """,
        result={"x": 4, "y": "t"},
        is_fired=True,
    ),
    Scenario(
        "fork and join",
        """
        timeout: 10h
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c, d]}]}
        - {name: b, run: [WORK, {action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
        - {name: c, run: [WORK, {action: set, set: {y: 2}}], rule: [{case: default, run: [e]}]}
        - {name: d, run: [WORK], rule: [{case: "{{ step.visit > 1 }}", run: [e]}]}
        - {name: e, run: [WORK, {action: set, set: {z: "{{ x + y }}"}}]}
        output: {sum: "{{ z }}", d: "{{ steps.d.status }}"}
        """,
        result={"sum": 3, "d": "succeeded"},
    ),
    Scenario(
        "joins in joins",
        """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK], rule: [{case: default, run: [d, e]}]}
        - {name: c, run: [WORK, {action: set, set: {w: 1}}], rule: [{case: default, run: [g]}]}
        - {name: d, run: [WORK, {action: set, set: {x: 2}}], rule: [{case: default, run: [f]}]}
        - {name: e, run: [WORK, {action: set, set: {y: 4}}], rule: [{case: default, run: [f]}]}
        - {name: f, run: [WORK, {action: set, set: {z: "{{ x + y }}"}}], rule: [{case: default, run: [g]}]}
        - {name: g, run: [WORK, {action: set, set: {all: "{{ w + z }}"}}]}
        output: {all: "{{ all }}"}
        """,
        result={"all": 7},
    ),
    Scenario(
        "first at a join",
        """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK], rule: [{case: default, run: [j]}]}
        - {name: c, run: [WORK], rule: [{case: default, run: [j]}]}
        - {name: j, join: any, run: [WORK], rule: [{case: default, run: [k]}]}
        - {name: k, run: [WORK]}
        output: {visits: "{{ steps.j.visits }}"}
        """,
        result={"visits": 1},
    ),
    Scenario(
        "each at a join",
        """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK], rule: [{case: default, run: [j]}]}
        - {name: c, run: [WORK], rule: [{case: default, run: [j]}]}
        - {name: j, join: each, run: [WORK]}
        output: {visits: "{{ steps.j.visits }}"}
        """,
        result={"visits": 2},
    ),
    Scenario(
        "cycle",
        """
        variables: {n: 0}
        steps:
        - {name: a, max_visits: 2, run: [WORK], rule: [{case: error, run: [e]}, {case: default, run: [b, c]}]}
        - {name: b, run: [WORK, {action: set, set: {n: "{{ n + 1 }}"}}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [WORK], rule: [{case: default, run: [d]}]}
        - {name: d, run: [WORK], rule: [{case: "{{ n < 9 }}", run: [a]}, {case: default, run: [e]}]}
        - {name: e, run: [WORK]}
        output: {n: "{{ n }}", a: "{{ steps.a.visits }}"}
        """,
        result={"n": 2, "a": 3},
    ),
    Scenario(
        "too many visits",
        """
        steps:
        - {name: a, max_visits: 1, run: [WORK], rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK], rule: [{case: "{{ step.visit < 5 }}", run: [a]}]}
        """,
        RunStatus.FAILED,
        errors=("MaxVisitsExceeded",),
    ),
    Scenario(
        "batches",
        """
        steps:
        - name: a
          loop: {items: [1, 2, 3, 4, 5], batch: 2}
          run: [WORK, {action: set, set: {x: "{{ item }}"}}]
          rule: [{case: default,
            run: [{action: set, set: {all: "{{ result.data | map(attribute='x') | list }}"}}, WORK]}]
        output: {all: "{{ all }}"}
        """,
        result={"all": [1, 2, 3, 4, 5]},
    ),
    Scenario(
        "loop in a step",
        """
        steps:
        - name: a
          run: [{action: set, set: {x: "{{ item * 2 }}"},
            loop: {items: [1, 2, 3], concurrency: 2, on_error: continue}, as: all}, WORK]
        output: {all: "{{ all | map(attribute='x') | list }}"}
        """,
        result={"all": [2, 4, 6]},
    ),
    Scenario(
        "rounds",
        """
        variables: {n: 0}
        steps:
        - {name: a, repeat: {until: "{{ n == 3 }}", every: 5s, max: 5},
           run: [WORK, {action: set, set: {n: "{{ n + 1 }}"}}]}
        output: {n: "{{ n }}"}
        """,
        result={"n": 3},
    ),
    Scenario(
        "too many rounds",
        """
        steps:
        - {name: a, repeat: {until: "{{ false }}", every: 5s, max: 2}, run: [WORK],
           rule: [{case: error, run: [b]}]}
        - {name: b, run: [WORK, {action: set, set: {why: "{{ steps.a.error.type }}"}}]}
        output: {why: "{{ why }}"}
        """,
        result={"why": "RepeatExhausted"},
    ),
    Scenario(
        "waits",
        """
        tasks: {slow: [WORK, {action: wait, seconds: "{{ args.s }}"}, WORK,
          {action: set, set: {x: "{{ args.s }}"}}]}
        steps:
        - {name: a, run: [WORK, {action: wait, seconds: 7}, {task: slow, with: {s: 100}}],
           rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK, {action: set, set: {y: "{{ x }}"}}]}
        output: {y: "{{ y }}"}
        """,
        result={"y": 100},
    ),
    Scenario(
        "parallel waits",
        """
        tasks: {slow: [WORK, {action: wait, seconds: "{{ args.s }}"}, WORK,
          {action: set, set: {x: "{{ args.s }}"}}]}
        steps:
        - name: a
          parallel: true
          run: [{task: slow, with: {s: 5}}, {task: slow, with: {s: 9, on_error: continue,
            loop: {items: [1, 2], concurrency: 2}}, WORK]
          rule: [{case: default, run: [{action: wait, seconds: 1}, WORK, {action: set, set: {y: "{{ x }}"}}]}]
        output: {y: "{{ y }}"}
        """.replace("{s: 9, on_error", "{s: 9}, on_error"),
        result={"y": 5},
    ),
    Scenario(
        "callback",
        """
        steps:
        - name: a
          parallel: true
          run:
            - {action: callback, timeout: 10h, notify: SEND_TOKEN, as: x}
            - {action: callback, timeout: 30s, as: y, on_error: continue}
          rule: [{case: default, run: [b]}]
        - {name: b, run: [WORK, {action: set, set: {z: "{{ x }}", late: "{{ y is not defined }}"}}]}
        output: {z: "{{ z }}", late: "{{ late }}"}
        """,
        result={"z": "yes", "late": True},
    ),
    Scenario(
        "callback answered before the commit",
        """
        steps:
        - {name: a, run: [{action: callback, timeout: 10h, notify: SEND_TOKEN, as: x}],
           rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK, {action: set, set: {z: "{{ x }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": "yes"},
        answers_before_commit=True,
    ),
    Scenario(
        "workflow",
        """
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK, {action: workflow, playbook: child, input: {n: 7}, as: x}, WORK],
           rule: [{case: default, run: [d]}]}
        - {name: c, run: [{action: workflow, playbook: child, input: {n: 0}}],
           rule: [{case: error, run: [d]}]}
        - {name: d, run: [WORK, {action: set, set: {z: "{{ [x.half, steps.c.error.type] }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": [2.0, "WorkflowFailed"]},
    ),
    Scenario(
        "detached workflow",
        """
        steps:
        - {name: a, run: [{action: workflow, playbook: child, input: {n: 7}, detach: true}, WORK]}
        output: {a: "{{ steps.a.status }}"}
        """,
        result={"a": "succeeded"},
    ),
    Scenario(
        "finally",
        """
        finally: tidy
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK]}
        - {name: c, run: [WORK, {action: set, set: {x: 1}}]}
        - {name: tidy, run: [WORK, {action: wait, seconds: 3}, {action: set, set: {was: "{{ run.status }}"}}]}
        output: {x: "{{ x }}", was: "{{ was }}"}
        """,
        result={"x": 1, "was": "succeeded"},
    ),
    Scenario(
        "finally after a failure",
        """
        finally: tidy
        steps:
        - {name: a, run: [WORK, {action: fail, message: no, type: Odd}],
           rule: [{case: "{{ true }}", run: [b]}]}
        - {name: b, run: [WORK]}
        - {name: tidy, run: [WORK, {action: fail, message: again}]}
        """,
        RunStatus.FAILED,
        errors=("Failed", "Odd"),
    ),
    Scenario(
        "handled failure",
        """
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK, {action: fail, message: no}], rule: [{case: error, run: [d]}]}
        - {name: c, run: [WORK], on_error: continue,
           rule: [{case: "{{ 1 / 0 }}", run: []}, {case: default, run: [d]}]}
        - {name: d, run: [WORK, {action: set, set: {e: "{{ steps.b.error.type }}"}}]}
        output: {e: "{{ e }}"}
        """,
        RunStatus.COMPLETED_WITH_ERRORS,
        {"e": "Failed"},
        ("GuardError",),
    ),
    Scenario(
        "abort",
        """
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK, {action: fail, message: no}], rule: [{case: default, run: [c]}]}
        - {name: c, run: [WORK]}
        """,
        RunStatus.FAILED,
        errors=("Failed",),
    ),
    Scenario(
        "retries",
        """
        steps:
        - name: a
          retry: {attempts: 3, delay: 10s}
          run: [WORK, {action: shell, command: ["false"], if: "{{ step.attempt < 3 }}",
            retry: {attempts: 2, delay: 0s}}, {action: set, set: {n: "{{ step.attempt }}"}}]
          rule: [{case: default, run: [b]}]
        - {name: b, run: [WORK]}
        output: {n: "{{ n }}"}
        """,
        result={"n": 3},
    ),
    Scenario(
        "an action with a later retry",
        """
        steps:
        - name: a
          parallel: true
          run:
          - {action: shell, command: ["false"], retry: {attempts: 3, delay: 20s}, on_error: continue}
          - WORK
          - {action: wait, seconds: 30}
          rule: [{case: default, run: [b]}]
        - {name: b, run: [WORK, {action: set, set: {n: "{{ steps.a.visits }}"}}]}
        """,
        result={"n": 1},
    ),
    Scenario(
        "retries that end",
        """
        steps:
        - name: a
          retry: {attempts: 2, delay: 10s}
          run: [WORK, {action: shell, command: ["false"]}]
        """,
        RunStatus.FAILED,
        errors=("CommandFailed",),
    ),
    Scenario(
        "at most once",
        """
        steps:
        - {name: a, delivery: at_most_once, retry: {attempts: 3, delay: 1s}, run: [WORK],
           rule: [{case: default, run: [b]}]}
        - {name: b, delivery: at_most_once, run: [WORK],
           rule: [{case: error, run: [c]}, {case: default, run: [c]}]}
        - {name: c, run: [WORK, {action: set, set: {x: 1}}]}
        output: {x: "{{ x }}"}
        """,
        result={"x": 1},
        may_interrupt=True,
    ),
    Scenario(
        "sequential mode",
        """
        mode: sequential
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK, {action: wait, seconds: 5}, {action: set, set: {x: 1}}],
           rule: [{case: default, run: [d]}]}
        - {name: c, run: [WORK, {action: set, set: {y: "{{ x | default(9) }}"}}],
           rule: [{case: default, run: [d]}]}
        - {name: d, run: [WORK]}
        output: {y: "{{ y }}"}
        """,
        result={"y": 1},
    ),
    Scenario(
        "cancelled and resumed",
        """
        finally: tidy
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK, {action: wait, seconds: 3h}, {action: set, set: {x: 1}}],
           rule: [{case: default, run: [d]}]}
        - {name: c, run: [WORK, {action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
        - {name: d, run: [WORK, {action: set, set: {z: "{{ x + y }}"}}]}
        - {name: tidy, run: [WORK]}
        output: {z: "{{ z }}"}
        """,
        result={"z": 3},
        acts=(CANCEL, OperatorAct(RunStatus.CANCELLED, "resume")),
    ),
    Scenario(
        "cancelled",
        """
        steps:
        - {name: a, run: [{action: workflow, playbook: child, input: {n: 50000}}],
           rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK]}
        """,
        RunStatus.CANCELLED,
        acts=(CANCEL,),
    ),
    Scenario(
        "paused and unpaused",
        """
        finally: tidy
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c, d]}]}
        - {name: b, run: [WORK, {action: wait, seconds: 3h}, {action: set, set: {x: 1}}],
           rule: [{case: default, run: [e]}]}
        - {name: c, retry: {attempts: 2, delay: 40s},
           run: [WORK, {action: shell, command: ["false"], if: "{{ step.attempt < 2 }}"}],
           rule: [{case: default, run: [e]}]}
        - {name: d, run: [{action: workflow, playbook: child, input: {n: 7}, as: y}, WORK],
           rule: [{case: default, run: [e]}]}
        - {name: e, run: [WORK, {action: set, set: {z: "{{ x + y.half }}"}}]}
        - {name: tidy, run: [WORK]}
        output: {z: "{{ z }}"}
        """,
        result={"z": 3.0},
        acts=(PAUSE, UNPAUSE, PAUSE, UNPAUSE),
    ),
    Scenario(
        "paused and unpaused in sequential mode",
        """
        mode: sequential
        steps:
        - {name: a, run: [WORK, {action: wait, seconds: 5}], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: callback, timeout: 10h, notify: SEND_TOKEN, as: x}],
           rule: [{case: default, run: [d]}]}
        - {name: c, loop: {items: [1, 2, 3], batch: 1}, run: [WORK], rule: [{case: default, run: [d]}]}
        - {name: d, run: [WORK, {action: set, set: {z: "{{ x }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": "yes"},
        acts=(PAUSE, UNPAUSE),
    ),
    Scenario(
        "paused and cancelled",
        """
        steps:
        - {name: a, run: [{action: workflow, playbook: child, input: {n: 50000}}],
           rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK]}
        """,
        RunStatus.CANCELLED,
        acts=(PAUSE, OperatorAct(RunStatus.PAUSED, "cancel")),
    ),
    Scenario(
        "paused until the deadline",
        """
        timeout: 2h
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK, {action: wait, seconds: 1h}]}
        - {name: c, run: [WORK, {action: callback, timeout: 4h}]}
        """,
        RunStatus.TIMED_OUT,
        errors=("Timeout",),
        acts=(PAUSE,),
    ),
    Scenario(
        "failed and resumed",
        """
        input: {good: boolean}
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b,
           run: [WORK, {action: fail, message: no, if: "{{ not good }}"}, {action: set, set: {x: 1}}],
           rule: [{case: default, run: [d]}]}
        - {name: c, run: [WORK, {action: wait, seconds: 3h}, {action: set, set: {y: 2}}],
           rule: [{case: default, run: [d]}]}
        - {name: d, run: [WORK, {action: set, set: {z: "{{ x + y }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": 3},
        acts=(OperatorAct(RunStatus.FAILED, "resume", {"good": True}),),
        input={"good": False},
    ),
    Scenario(
        "entries of the outbox",
        """
        input: {good: boolean}
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: fail, message: no, if: "{{ not good }}"}, {action: set, set: {x: 1}}]}
        output: {x: "{{ x }}"}
        """,
        result={"x": 1},
        acts=(OperatorAct(RunStatus.FAILED, "resume", {"good": True}),),
        input={"good": False},
        has_entries=True,
    ),
    Scenario(
        "limits and rates",
        """
        name: limited
        concurrency: {limit: 1}
        rate: {limit: 1, per: 20s}
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK], rule: [{case: default, run: [d]}]}
        - {name: c, run: [WORK], rule: [{case: default, run: [d]}]}
        - {name: d, join: each, concurrency: 1, rate: [{limit: 1, per: 2m}, {limit: 3, per: 1h}], run: [WORK]}
        output: {visits: "{{ steps.d.visits }}"}
        """,
        result={"visits": 2},
        acts=(CANCEL, OperatorAct(RunStatus.CANCELLED, "resume")),
        has_limits=True,
    ),
    Scenario(
        "a queue of runs",
        """
        name: queued
        concurrency: {limit: 1}
        steps:
        - {name: a, run: [WORK, {action: wait, seconds: 7}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK, {action: set, set: {x: 1}}]}
        output: {x: "{{ x }}"}
        """,
        result={"x": 1},
        has_limits=True,
        has_earlier_run=True,
    ),
    Scenario(
        "debounced",
        """
        name: debounced
        input: {n: integer}
        debounce: {wait: 10s, max: 1m}
        steps:
        - {name: a, run: [WORK, {action: set, set: {x: "{{ n }}"}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK, {action: set, set: {y: "{{ x + 1 }}"}}]}
        output: {y: "{{ y }}"}
        """,
        result={"y": 3},
        input={"n": 2},
        earlier_input={"n": 1},
    ),
    Scenario(
        "cached results",
        """
        steps:
        - name: a
          cache: {key: one, skip_effects: true}
          run: [WORK, {action: set, set: {x: 1}}]
          rule: [{case: default, run: [b]}]
        - name: b
          loop: {items: [2, 3], as: n}
          cache: {key: "{{ n }}", skip_effects: true}
          run: [WORK, {action: set, set: {y: "{{ n }}"}}]
          rule: [{case: default, run: [c]}]
        - name: c
          run: [WORK, {action: set, set: {z: "{{ steps.b.result | map(attribute='y') | sum + x }}"}}]
        output: {z: "{{ z }}"}
        """,
        result={"z": 6},
        has_cache=True,
    ),
    Scenario(
        "failed items of a loop",
        """
        input: {wrong: array}
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b]}]}
        - name: b
          loop: {items: [1, 2, 3, 4], as: n}
          run: [{action: fail, message: no, if: "{{ n in wrong }}"}, WORK, {action: set, set: {x: "{{ n }}"}}]
          rule: [{case: default, run: [c]}]
        - {name: c, run: [WORK, {action: set, set: {z: "{{ steps.b.result | map(attribute='x') | sum }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": 10},
        acts=(OperatorAct(RunStatus.FAILED, "resume", {"wrong": []}),),
        input={"wrong": [3]},
    ),
    Scenario(
        "out of time",
        """
        timeout: 2h
        steps:
        - {name: a, run: [WORK], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [WORK, {action: wait, seconds: 3h}]}
        - {name: c, run: [WORK, {action: callback, timeout: 4h}]}
        """,
        RunStatus.TIMED_OUT,
        errors=("Timeout",),
    ),
    Scenario(
        "long steps",
        """
        tasks: {slow: [WORK, {action: wait, seconds: "{{ args.s }}"}, WORK]}
        steps:
        - name: a
          retry: {attempts: 2, delay: 10s}
          run:
          - WORK
          - {action: shell, command: ["false"], if: "{{ step.attempt < 2 }}", retry: {attempts: 2, delay: 0s}}
          - {task: slow, with: {s: 5}}
          - {action: set, set: {x: 1}}
          rule: [{case: default, run: [b, c]}]
        - {name: b, parallel: true, run: [WORK, WORK, {task: slow, with: {s: 7}}],
           rule: [{case: default, run: [d]}]}
        - {name: c, loop: {items: [1, 2, 3, 4, 5], batch: 3}, run: [WORK], rule: [{case: default, run: [d]}]}
        - {name: d, run: [WORK], rule: [{case: default, run: [WORK, {action: set, set: {y: "{{ x + 1 }}"}}]}]}
        output: {y: "{{ y }}"}
        """,
        result={"y": 2},
        renews_claims=True,
    ),
    Scenario(
        "a long step that is resumed",
        """
        input: {good: boolean}
        steps:
        - {name: a,
           run: [WORK, {action: set, set: {x: 1}}, WORK, {action: fail, message: no, if: "{{ not good }}"}],
           rule: [{case: default, run: [b]}]}
        - {name: b, run: [WORK]}
        output: {x: "{{ x }}"}
        """,
        result={"x": 1},
        acts=(OperatorAct(RunStatus.FAILED, "resume", {"good": True}),),
        input={"good": False},
        renews_claims=True,
    ),
)
