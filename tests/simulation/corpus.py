"""The playbooks of the crash matrix: each says how it must end, whatever goes wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from noetl.executor.model.run import RunStatus
from noetl.planner.plan import Plan

from tests.run_harness import compile_text

NOTE = """{action: log, level: debug, message: "{{ step.idempotency_key }}", fields: {attempt: "{{ step.attempt }}"}}"""
"""Work that must not be lost, and whose every performance is seen."""

ASK = "{action: log, level: debug, message: token, fields: {token: '{{ callback.token }}'}}"
"""Tells the operator which token answers."""

CHILD = """
    name: child
    input: {n: integer}
    steps:
    - {name: a, run: [NOTE, {action: wait, seconds: "{{ n }}"}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [NOTE, {action: set, set: {half: "{{ 14 / n }}"}}]}
"""


@dataclass(frozen=True)
class Act:
    """What an operator does once the run has a status."""

    when: RunStatus
    do: str
    input: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """A playbook, what operators do to its run, and how that ends. With `prompt` callbacks are answered just before
    whoever asked says that he waits. Where an interruption may show (`at_most_once`), only what must hold of every run is asked. Where
    its steps are `long`, a claim is renewed while an action is at work.
    """

    name: str
    text: str
    status: RunStatus = RunStatus.SUCCEEDED
    result: Any = None
    errors: tuple[str, ...] = ()
    acts: tuple[Act, ...] = ()
    input: Mapping[str, Any] = field(default_factory=dict)
    prompt: bool = False
    interrupts: bool = False
    long: bool = False

    @cached_property
    def plan(self) -> Plan:
        return compile_text(self.text.replace("NOTE", NOTE).replace("ASK", ASK))


CANCEL = Act(RunStatus.WAITING, "cancel")
SCENES = (
    Scene(
        "chain",
        """
        steps:
        - {name: a, run: [NOTE, {action: set, set: {x: 1}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE, {action: set, set: {y: "{{ x + 1 }}"}}], rule: [{case: default, run: [c]}]}
        - {name: c, run: [NOTE, {action: set, set: {z: "{{ [x, y, uuid() | length] }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": [1, 2, 36]},
    ),
    Scene(
        "fork and join",
        """
        timeout: 10h
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c, d]}]}
        - {name: b, run: [NOTE, {action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
        - {name: c, run: [NOTE, {action: set, set: {y: 2}}], rule: [{case: default, run: [e]}]}
        - {name: d, run: [NOTE], rule: [{case: "{{ step.visit > 1 }}", run: [e]}]}
        - {name: e, run: [NOTE, {action: set, set: {z: "{{ x + y }}"}}]}
        output: {sum: "{{ z }}", d: "{{ steps.d.status }}"}
        """,
        result={"sum": 3, "d": "succeeded"},
    ),
    Scene(
        "joins in joins",
        """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE], rule: [{case: default, run: [d, e]}]}
        - {name: c, run: [NOTE, {action: set, set: {w: 1}}], rule: [{case: default, run: [g]}]}
        - {name: d, run: [NOTE, {action: set, set: {x: 2}}], rule: [{case: default, run: [f]}]}
        - {name: e, run: [NOTE, {action: set, set: {y: 4}}], rule: [{case: default, run: [f]}]}
        - {name: f, run: [NOTE, {action: set, set: {z: "{{ x + y }}"}}], rule: [{case: default, run: [g]}]}
        - {name: g, run: [NOTE, {action: set, set: {all: "{{ w + z }}"}}]}
        output: {all: "{{ all }}"}
        """,
        result={"all": 7},
    ),
    Scene(
        "first at a join",
        """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE], rule: [{case: default, run: [j]}]}
        - {name: c, run: [NOTE], rule: [{case: default, run: [j]}]}
        - {name: j, join: any, run: [NOTE], rule: [{case: default, run: [k]}]}
        - {name: k, run: [NOTE]}
        output: {visits: "{{ steps.j.visits }}"}
        """,
        result={"visits": 1},
    ),
    Scene(
        "each at a join",
        """
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE], rule: [{case: default, run: [j]}]}
        - {name: c, run: [NOTE], rule: [{case: default, run: [j]}]}
        - {name: j, join: each, run: [NOTE]}
        output: {visits: "{{ steps.j.visits }}"}
        """,
        result={"visits": 2},
    ),
    Scene(
        "cycle",
        """
        variables: {n: 0}
        steps:
        - {name: a, max_visits: 2, run: [NOTE], rule: [{case: error, run: [e]}, {case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: set, set: {n: "{{ n + 1 }}"}}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [NOTE], rule: [{case: default, run: [d]}]}
        - {name: d, run: [NOTE], rule: [{case: "{{ n < 9 }}", run: [a]}, {case: default, run: [e]}]}
        - {name: e, run: [NOTE]}
        output: {n: "{{ n }}", a: "{{ steps.a.visits }}"}
        """,
        result={"n": 2, "a": 3},
    ),
    Scene(
        "too many visits",
        """
        steps:
        - {name: a, max_visits: 1, run: [NOTE], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE], rule: [{case: "{{ step.visit < 5 }}", run: [a]}]}
        """,
        RunStatus.FAILED,
        errors=("MaxVisitsExceeded",),
    ),
    Scene(
        "batches",
        """
        steps:
        - name: a
          loop: {items: [1, 2, 3, 4, 5], batch: 2}
          run: [NOTE, {action: set, set: {x: "{{ item }}"}}]
          rule: [{case: default, run: [{action: set, set: {all: "{{ result.data | map(attribute='x') | list }}"}}, NOTE]}]
        output: {all: "{{ all }}"}
        """,
        result={"all": [1, 2, 3, 4, 5]},
    ),
    Scene(
        "loop in a step",
        """
        steps:
        - name: a
          run: [{action: set, set: {x: "{{ item * 2 }}"}, loop: {items: [1, 2, 3], concurrency: 2, on_error: continue}, as: all}, NOTE]
        output: {all: "{{ all | map(attribute='x') | list }}"}
        """,
        result={"all": [2, 4, 6]},
    ),
    Scene(
        "rounds",
        """
        variables: {n: 0}
        steps:
        - {name: a, repeat: {until: "{{ n == 3 }}", every: 5s, max: 5}, run: [NOTE, {action: set, set: {n: "{{ n + 1 }}"}}]}
        output: {n: "{{ n }}"}
        """,
        result={"n": 3},
    ),
    Scene(
        "too many rounds",
        """
        steps:
        - {name: a, repeat: {until: "{{ false }}", every: 5s, max: 2}, run: [NOTE], rule: [{case: error, run: [b]}]}
        - {name: b, run: [NOTE, {action: set, set: {why: "{{ steps.a.error.type }}"}}]}
        output: {why: "{{ why }}"}
        """,
        result={"why": "RepeatExhausted"},
    ),
    Scene(
        "waits",
        """
        tasks: {slow: [NOTE, {action: wait, seconds: "{{ args.s }}"}, NOTE, {action: set, set: {x: "{{ args.s }}"}}]}
        steps:
        - {name: a, run: [NOTE, {action: wait, seconds: 7}, {task: slow, with: {s: 100}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE, {action: set, set: {y: "{{ x }}"}}]}
        output: {y: "{{ y }}"}
        """,
        result={"y": 100},
    ),
    Scene(
        "waits side by side",
        """
        tasks: {slow: [NOTE, {action: wait, seconds: "{{ args.s }}"}, NOTE, {action: set, set: {x: "{{ args.s }}"}}]}
        steps:
        - name: a
          parallel: true
          run: [{task: slow, with: {s: 5}}, {task: slow, with: {s: 9, on_error: continue, loop: {items: [1, 2], concurrency: 2}}, NOTE]
          rule: [{case: default, run: [{action: wait, seconds: 1}, NOTE, {action: set, set: {y: "{{ x }}"}}]}]
        output: {y: "{{ y }}"}
        """.replace("{s: 9, on_error", "{s: 9}, on_error"),
        result={"y": 5},
    ),
    Scene(
        "callback",
        """
        steps:
        - name: a
          parallel: true
          run:
            - {action: callback, timeout: 10h, notify: ASK, as: x}
            - {action: callback, timeout: 30s, as: y, on_error: continue}
          rule: [{case: default, run: [b]}]
        - {name: b, run: [NOTE, {action: set, set: {z: "{{ x }}", late: "{{ y is not defined }}"}}]}
        output: {z: "{{ z }}", late: "{{ late }}"}
        """,
        result={"z": "yes", "late": True},
    ),
    Scene(
        "callback answered at once",
        """
        steps:
        - {name: a, run: [{action: callback, timeout: 10h, notify: ASK, as: x}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE, {action: set, set: {z: "{{ x }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": "yes"},
        prompt=True,
    ),
    Scene(
        "workflow",
        """
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: workflow, playbook: child, input: {n: 7}, as: x}, NOTE], rule: [{case: default, run: [d]}]}
        - {name: c, run: [{action: workflow, playbook: child, input: {n: 0}}], rule: [{case: error, run: [d]}]}
        - {name: d, run: [NOTE, {action: set, set: {z: "{{ [x.half, steps.c.error.type] }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": [2.0, "WorkflowFailed"]},
    ),
    Scene(
        "workflow left alone",
        """
        steps:
        - {name: a, run: [{action: workflow, playbook: child, input: {n: 7}, detach: true}, NOTE]}
        output: {a: "{{ steps.a.status }}"}
        """,
        result={"a": "succeeded"},
    ),
    Scene(
        "finally",
        """
        finally: tidy
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE]}
        - {name: c, run: [NOTE, {action: set, set: {x: 1}}]}
        - {name: tidy, run: [NOTE, {action: wait, seconds: 3}, {action: set, set: {was: "{{ run.status }}"}}]}
        output: {x: "{{ x }}", was: "{{ was }}"}
        """,
        result={"x": 1, "was": "succeeded"},
    ),
    Scene(
        "finally after a failure",
        """
        finally: tidy
        steps:
        - {name: a, run: [NOTE, {action: fail, message: no, type: Odd}], rule: [{case: "{{ true }}", run: [b]}]}
        - {name: b, run: [NOTE]}
        - {name: tidy, run: [NOTE, {action: fail, message: again}]}
        """,
        RunStatus.FAILED,
        errors=("Failed", "Odd"),
    ),
    Scene(
        "handled failure",
        """
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: fail, message: no}], rule: [{case: error, run: [d]}]}
        - {name: c, run: [NOTE], on_error: continue, rule: [{case: "{{ 1 / 0 }}", run: []}, {case: default, run: [d]}]}
        - {name: d, run: [NOTE, {action: set, set: {e: "{{ steps.b.error.type }}"}}]}
        output: {e: "{{ e }}"}
        """,
        RunStatus.COMPLETED_WITH_ERRORS,
        {"e": "Failed"},
        ("GuardError",),
    ),
    Scene(
        "abort",
        """
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE, {action: fail, message: no}], rule: [{case: default, run: [c]}]}
        - {name: c, run: [NOTE]}
        """,
        RunStatus.FAILED,
        errors=("Failed",),
    ),
    Scene(
        "retries",
        """
        steps:
        - name: a
          retry: {attempts: 3, delay: 10s}
          run: [NOTE, {action: shell, command: ["false"], if: "{{ step.attempt < 3 }}", retry: {attempts: 2, delay: 0s}}, {action: set, set: {n: "{{ step.attempt }}"}}]
          rule: [{case: default, run: [b]}]
        - {name: b, run: [NOTE]}
        output: {n: "{{ n }}"}
        """,
        result={"n": 3},
    ),
    Scene(
        "an action that is tried again later",
        """
        steps:
        - name: a
          parallel: true
          run:
          - {action: shell, command: ["false"], retry: {attempts: 3, delay: 20s}, on_error: continue}
          - NOTE
          - {action: wait, seconds: 30}
          rule: [{case: default, run: [b]}]
        - {name: b, run: [NOTE, {action: set, set: {n: "{{ steps.a.visits }}"}}]}
        """,
        result={"n": 1},
    ),
    Scene(
        "retries that end",
        """
        steps:
        - name: a
          retry: {attempts: 2, delay: 10s}
          run: [NOTE, {action: shell, command: ["false"]}]
        """,
        RunStatus.FAILED,
        errors=("CommandFailed",),
    ),
    Scene(
        "at most once",
        """
        steps:
        - {name: a, delivery: at_most_once, retry: {attempts: 3, delay: 1s}, run: [NOTE], rule: [{case: default, run: [b]}]}
        - {name: b, delivery: at_most_once, run: [NOTE], rule: [{case: error, run: [c]}, {case: default, run: [c]}]}
        - {name: c, run: [NOTE, {action: set, set: {x: 1}}]}
        output: {x: "{{ x }}"}
        """,
        result={"x": 1},
        interrupts=True,
    ),
    Scene(
        "one after another",
        """
        mode: sequential
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: wait, seconds: 5}, {action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [NOTE, {action: set, set: {y: "{{ x | default(9) }}"}}], rule: [{case: default, run: [d]}]}
        - {name: d, run: [NOTE]}
        output: {y: "{{ y }}"}
        """,
        result={"y": 1},
    ),
    Scene(
        "cancelled and gone on with",
        """
        finally: tidy
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: wait, seconds: 3h}, {action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [NOTE, {action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
        - {name: d, run: [NOTE, {action: set, set: {z: "{{ x + y }}"}}]}
        - {name: tidy, run: [NOTE]}
        output: {z: "{{ z }}"}
        """,
        result={"z": 3},
        acts=(CANCEL, Act(RunStatus.CANCELLED, "resume")),
    ),
    Scene(
        "cancelled",
        """
        steps:
        - {name: a, run: [{action: workflow, playbook: child, input: {n: 50000}}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE]}
        """,
        RunStatus.CANCELLED,
        acts=(CANCEL,),
    ),
    Scene(
        "failed and gone on with",
        """
        input: {good: boolean}
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: fail, message: no, if: "{{ not good }}"}, {action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [NOTE, {action: wait, seconds: 3h}, {action: set, set: {y: 2}}], rule: [{case: default, run: [d]}]}
        - {name: d, run: [NOTE, {action: set, set: {z: "{{ x + y }}"}}]}
        output: {z: "{{ z }}"}
        """,
        result={"z": 3},
        acts=(Act(RunStatus.FAILED, "resume", {"good": True}),),
        input={"good": False},
    ),
    Scene(
        "out of time",
        """
        timeout: 2h
        steps:
        - {name: a, run: [NOTE], rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [NOTE, {action: wait, seconds: 3h}]}
        - {name: c, run: [NOTE, {action: callback, timeout: 4h}]}
        """,
        RunStatus.TIMED_OUT,
        errors=("Timeout",),
    ),
    Scene(
        "long steps",
        """
        tasks: {slow: [NOTE, {action: wait, seconds: "{{ args.s }}"}, NOTE]}
        steps:
        - name: a
          retry: {attempts: 2, delay: 10s}
          run:
          - NOTE
          - {action: shell, command: ["false"], if: "{{ step.attempt < 2 }}", retry: {attempts: 2, delay: 0s}}
          - {task: slow, with: {s: 5}}
          - {action: set, set: {x: 1}}
          rule: [{case: default, run: [b, c]}]
        - {name: b, parallel: true, run: [NOTE, NOTE, {task: slow, with: {s: 7}}], rule: [{case: default, run: [d]}]}
        - {name: c, loop: {items: [1, 2, 3, 4, 5], batch: 3}, run: [NOTE], rule: [{case: default, run: [d]}]}
        - {name: d, run: [NOTE], rule: [{case: default, run: [NOTE, {action: set, set: {y: "{{ x + 1 }}"}}]}]}
        output: {y: "{{ y }}"}
        """,
        result={"y": 2},
        long=True,
    ),
    Scene(
        "a long step that is gone on with",
        """
        input: {good: boolean}
        steps:
        - {name: a, run: [NOTE, {action: set, set: {x: 1}}, NOTE, {action: fail, message: no, if: "{{ not good }}"}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [NOTE]}
        output: {x: "{{ x }}"}
        """,
        result={"x": 1},
        acts=(Act(RunStatus.FAILED, "resume", {"good": True}),),
        input={"good": False},
        long=True,
    ),
)
