"""Checks of a playbook among the registered ones: NP816 to NP819, and NP822."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.actions import catalogue
from noetl.executor.engine.start import check_inputs
from noetl.executor.errors import RejectedError
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.plan import Action, Case, Header, Plan, Retry, Step, Task, TaskCall, Work
from noetl.planner.registration import checks, circles
from noetl.planner.registration import findings as findings_module
from noetl.planner.registration.certain_calls import always_calls
from noetl.planner.registration.checks import check_uses, find_alias_callers, preview_registration
from tests.planner.registered import KnownPlaybooks, compiled, diagnose_among, findings_among

IMPORT = """\
name: import
input: {day: string, limit: {type: integer, default: 1, enum: [1, 2]}}
steps: [{name: a, run: [{action: set, set: {rows: 1}}]}]
output: {rows: "{{ rows }}", "a-b": 1}
"""
SAVING = """\
name: saving
variables: {first: 1}
steps: [{name: a, run: [{action: set, set: {rows: 1}}, {action: log, message: x, as: logged}]}]
"""
OPEN = """\
name: open
steps: [{name: a, run: [{action: log, message: "{{ input }} {{ day }}"}]}]
"""
QUIET = "steps: [{name: a, run: [{action: log, message: x}]}]\n"


def caller(*entries: str, name: str = "caller", step: str = "", head: str = "") -> str:
    """Return a playbook with these entries in its first step."""
    lines = "".join(f"      - {entry}\n" for entry in entries)
    return f"name: {name}\n{head}steps:\n  - name: a\n{step}    run:\n{lines}"


def messages_among(registered: KnownPlaybooks, text: str) -> list[str]:
    return [found.message for found in diagnose_among(registered, text)]


class TestUsedPlaybooks:
    """NP817 and NP818."""

    def test_a_playbook_and_a_version_must_exist(self) -> None:
        registered = KnownPlaybooks(IMPORT, f"name: after\nversion: '2.0'\n{QUIET}")
        text = caller(
            "{action: workflow, playbook: improt}",
            "{action: workflow, playbook: after, version: '2.1'}",
            "{action: workflow, playbook: after, version: '2.0'}",
            "{action: workflow, playbook: caller, if: '{{ false }}'}",
            "{action: workflow, playbook: '{{ input.name }}'}",
            "{action: workflow, playbook: after, version: '{{ input.version }}'}",
            "{action: workflow, playbook: nothing}",
            head="input: {name: string, version: string}\n",
        )
        calls = diagnose_among(registered, text)
        assert [found.message for found in calls if found.code == "NP817"] == [
            "unknown playbook `improt`",
            "unknown version `2.1` of the playbook `after`",
            "unknown playbook `nothing`",
        ]
        assert [found.hint for found in calls if found.code == "NP817"] == [
            "did you mean `import`?",
            "versions: `2.0`",
            "register it first",
        ]
        assert calls[0].fix is not None
        assert calls[0].fix.text == "import"

    def test_an_alias_must_exist(self) -> None:
        registered = KnownPlaybooks(IMPORT, IMPORT.replace("day: string, ", ""))
        registered.promote("import", "1", "stable")
        texts = [
            f"{{action: workflow, playbook: import, alias: {alias}, input: {{day: x}}}}"
            for alias in ("stabel", "zz", "stable", "live", "'{{ input.alias }}'")
        ]
        calls = diagnose_among(registered, caller(*texts, head="input: {alias: string}\n"))
        assert [(found.code, found.message, found.hint) for found in calls] == [
            ("NP817", "unknown alias `stabel` of the playbook `import`", "did you mean `stable`?"),
            ("NP817", "unknown alias `zz` of the playbook `import`", "promote a version to it first"),
            ("NP818", "`import@live` has no input `day`", "inputs: `limit`"),
        ]
        other = caller("{action: workflow, playbook: improt, alias: stable}")
        assert messages_among(registered, other) == ["unknown playbook `improt`"]

    def test_a_call_must_fit_the_version_that_its_alias_names(self) -> None:
        registered = KnownPlaybooks(IMPORT, IMPORT.replace("day: string, ", ""))
        plain = caller("{action: workflow, playbook: import, input: {day: x}}")
        aliased = caller("{action: workflow, playbook: import, alias: stable, input: {}}")
        assert messages_among(registered, plain) == ["`import` has no input `day`"]
        registered.promote("import", "2", "stable")
        assert diagnose_among(registered, aliased) == ()
        registered.promote("import", "1")
        assert diagnose_among(registered, plain) == ()
        registered.promote("import", "1", "stable")
        assert messages_among(registered, aliased) == ["`import@stable` requires the input `day`"]

    def test_a_playbook_that_calls_itself_runs_its_live_version(self) -> None:
        call = "{action: workflow, playbook: caller, input: {day: x}, if: '{{ false }}'}"
        registered = KnownPlaybooks(f"name: caller\n{QUIET}")
        text = caller(call, head="input: {day: string}\n")
        assert diagnose_among(registered, text) == ()
        registered.promote("caller", "1")
        assert messages_among(registered, text) == []
        assert [found.code for found in diagnose_among(registered, text, aliases=())] == ["NP818"]

    def test_the_playbook_of_a_trigger_must_exist(self) -> None:
        text = f"name: b\ntriggers: [{{name: t, type: run, playbook: aftr}}]\n{QUIET}"
        assert findings_among(KnownPlaybooks(f"name: after\n{QUIET}"), text) == [("NP817", "aftr")]

    def test_a_playbook_may_name_its_own_version(self) -> None:
        call = "{action: workflow, playbook: caller, version: '3', if: '{{ false }}'}"
        assert diagnose_among(KnownPlaybooks(), caller(call, head="version: '3'\n")) == ()

    @pytest.mark.parametrize(
        ("given_inputs", "expected"),
        [
            ("{day: x}", []),
            ("{day: '{{ run.id }}', limit: '{{ 1 + 1 }}'}", []),
            ("{day: x, limit: 2}", []),
            ("{day: x, limit: 3}", [("NP818", "3")]),
            ("{day: x, limit: 'no. {{ run.id }}'}", [("NP818", "'no. {{ run.id }}'")]),
            ("{day: 1}", [("NP818", "1")]),
            ("{limit: 1}", [("NP818", "import")]),
            ("{day: x, limits: 1}", [("NP818", "limits")]),
            ("'{{ environment }}'", []),
        ],
    )
    def test_inputs_must_fit(self, given_inputs: str, expected: list[tuple[str, str]]) -> None:
        text = caller(f"{{action: workflow, playbook: import, input: {given_inputs}}}")
        assert findings_among(KnownPlaybooks(IMPORT), text) == expected

    def test_an_undeclared_input_is_accepted_if_all_are_read(self) -> None:
        text = caller("{action: workflow, playbook: open, input: {other: 1}}")
        assert messages_among(KnownPlaybooks(OPEN), text) == ["`open` requires the input `day`"]

    @pytest.mark.parametrize(
        ("read", "is_known"),
        [
            ("{{ x.rows }}", True),
            ("{{ x['a-b'] }}", True),
            ("{{ x.items() }}", True),
            ("{{ x }}", True),
            ("{{ x.row | default(1) }}", True),
            ("{{ x.row is defined }}", True),
            ("{{ x.row }}", False),
            ("{{ x['row'] + 1 }}", False),
            ("{{ x.row.more }}", False),
        ],
    )
    def test_entries_of_a_result_must_exist(self, read: str, is_known: bool) -> None:
        text = caller(
            "{action: workflow, playbook: import, input: {day: x}, as: x}",
            f'{{action: log, message: "{read}"}}',
        )
        assert findings_among(KnownPlaybooks(IMPORT), text) == ([] if is_known else [("NP818", "row")])

    def test_the_keys_of_limits_are_read(self) -> None:
        text = """\
        name: caller
        steps:
          - name: a
            run: [{action: workflow, playbook: saving, as: x}]
            rule: [{case: default, run: [b]}]
          - name: b
            concurrency: {limit: 1, key: "{{ x.c1 }}"}
            rate: {limit: 1, per: 1m, key: "{{ x.c2 }}"}
            run: [{action: log, message: ok}]
        """
        assert findings_among(KnownPlaybooks(SAVING), text) == [("NP818", "c1"), ("NP818", "c2")]

    def test_entries_are_read_in_all_places(self) -> None:
        text = """\
        name: caller
        tasks:
          show: [{action: log, message: "{{ x.b1 }}"}]
        steps:
          - name: a
            run:
              - {action: workflow, playbook: saving, as: x}
              - {action: log, message: ok, if: "{{ x.b2 }}", retry: {if: "{{ x.b3 }}"}}
              - {task: show, with: {y: "{{ x.b4 }}"}, loop: {items: "{{ x.b5 }}"}}
              - {action: log, message: ok, cache: {key: "{{ x.b6 }}"}}
              - {action: workflow, playbook: saving}
            repeat: {until: "{{ result.data.b7 }}", max: 2}
            rule:
              - {case: "{{ x.b8 and result.data.b9 }}", run: [{action: log, message: "{{ x.b10 }}"}]}
              - {case: "{{ result.data.first and result.data.rows and result.data.logged }}"}
        output: {shown: "{{ x.b11 }} {{ steps.a.result.b12 }}"}
        """
        found = findings_among(KnownPlaybooks(SAVING), text)
        assert sorted(found) == sorted(("NP818", f"b{number}") for number in range(1, 13))

    @pytest.mark.parametrize(
        "text",
        [
            caller(
                "{action: workflow, playbook: saving, as: x, detach: true}",
                "{action: log, message: '{{ x.b }}'}",
            ),
            caller(
                "{action: workflow, playbook: saving, as: x}",
                "{action: set, set: {x: {b: 1}}}",
                "{action: log, message: '{{ x.b }}'}",
            ),
            caller(
                "{action: workflow, playbook: saving, as: x}",
                "{action: log, message: '{{ x.b }}'}",
                head="variables: {x: {b: 1}}\n",
            ),
            caller(
                "{action: workflow, playbook: saving, as: own}",
                "{action: log, message: '{{ own.b }}', loop: {items: [{b: 1}], as: own}}",
            ),
            caller("{action: workflow, playbook: saving}", "{action: log, message: x}")
            + '    rule: [{case: "{{ result.data.b }}"}]\n',
        ],
        ids=["detached", "saved_twice", "variable", "name_of_a_loop", "earlier_entry"],
    )
    def test_reads_of_other_values_are_not_reported(self, text: str) -> None:
        assert diagnose_among(KnownPlaybooks(SAVING), text) == ()

    def test_calls_in_tasks_are_checked(self) -> None:
        tasks = ("[{name: t, run: [CALL]}]", "{t: [CALL]}", "{t: {run: [CALL]}}")
        for written in tasks:
            call = "{action: workflow, playbook: improt}"
            text = caller("{task: t}", head=f"tasks: {written.replace('CALL', call)}\n")
            assert findings_among(KnownPlaybooks(IMPORT), text) == [("NP817", "improt")]

    def test_uses_are_compared_without_the_rules_of_an_operator(self) -> None:
        """Channels and sources are not those of files."""
        text = caller("{action: workflow, playbook: import}", "{action: workflow, playbook: caller}")
        triggers = "[{name: t, type: run, playbook: nothing}, {name: f, type: folder, folder: in}]"
        plan = compiled(f"{text}triggers: {triggers}\nnotify: {{failed: ops}}\n")
        found = check_uses(plan, KnownPlaybooks(IMPORT), catalogue())
        assert [(finding.code, finding.span.line) for finding in found] == [
            ("NP818", 5),
            ("NP819", 6),
            ("NP817", 7),
        ]
        assert check_uses(compiled(IMPORT), KnownPlaybooks(), catalogue()) == ()

    def test_only_so_many_findings_are_listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(findings_module, "MAX_FOUND", 1)
        text = caller("{action: workflow, playbook: none}", "{action: workflow, playbook: nothing}")
        assert findings_among(KnownPlaybooks(), text) == [("NP817", "none")]

    def test_a_trigger_of_another_type_uses_no_playbook(self) -> None:
        text = f"name: a\ntriggers: [{{name: t, type: schedule, every: 1h}}]\n{QUIET}"
        registered = KnownPlaybooks(awaiting("b", "a"), text)
        assert findings_among(registered, text) == []
        declared = "{name: u, type: schedule, every: 1h}, {name: t, type: run, playbook: b}"
        circle = f"name: a\ntriggers: [{declared}]\n{QUIET}"
        assert findings_among(registered, circle) == [("NP816", "b")]

    def test_a_forced_registration_is_checked_for_circles_only(self) -> None:
        text = caller("{action: workflow, playbook: nothing}", "{action: workflow, playbook: caller}")
        found = diagnose_among(KnownPlaybooks(), text, is_forced=True)
        assert [finding.code for finding in found] == ["NP819"]

    def test_a_playbook_without_uses_reads_nothing_but_itself(self) -> None:
        registered = KnownPlaybooks(IMPORT)
        assert diagnose_among(registered, f"name: b\n{QUIET}") == ()
        assert (registered.searches, registered.reads) == (1, [])

    def test_only_some_used_playbooks_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "MAX_USED", 2)
        text = caller(*(f"{{action: workflow, playbook: p{number}, detach: true}}" for number in range(5)))
        assert [code for code, _ in findings_among(KnownPlaybooks(), text)] == ["NP817", "NP817"]


class TestCallers:
    """NP822."""

    CALLER = caller(
        "{action: workflow, playbook: import, input: {day: x}, as: x}",
        '{action: log, message: "{{ x.rows }}"}',
    )

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("name: import", "name: import\ndescription: other", []),
            ("day: string", "day: {type: string, default: x}", []),
            ("day: string", "day: any", []),
            ("day: string", "day: string, more: {type: integer, default: 1}", []),
            ('rows: "{{ rows }}"', "rows: 1, more: 2", []),
            ("day: string", "day: string, more: integer", [("NP822", "more")]),
            ("day: string", "day: integer", [("NP822", "day")]),
            ("day: string", "day: {type: string, enum: [y]}", [("NP822", "day")]),
            ('rows: "{{ rows }}"', "row: 1", [("NP822", "output")]),
            ('output: {rows: "{{ rows }}", "a-b": 1}', "", []),
            (
                'set: {rows: 1}}]}]\noutput: {rows: "{{ rows }}", "a-b": 1}',
                "set: {lines: 1}}]}]",
                [("NP822", "name")],
            ),
            (
                "input: {day: string, limit: {type: integer, default: 1, enum: [1, 2]}}\n",
                "input: {}\n",
                [("NP822", "input")],
            ),
        ],
    )
    def test_callers_that_would_break_are_listed(
        self, old: str, new: str, expected: list[tuple[str, str]]
    ) -> None:
        assert old in IMPORT
        assert findings_among(KnownPlaybooks(IMPORT, self.CALLER), IMPORT.replace(old, new)) == expected

    def test_the_message_names_version_and_line(self) -> None:
        registered = KnownPlaybooks(IMPORT, f"name: caller\n{QUIET}", self.CALLER)
        (found,) = diagnose_among(registered, IMPORT.replace("day: string", "day: string, more: any"))
        assert found.message == "line 5 of `caller@2` would break: `import` requires the input `more`"

    def test_a_caller_is_not_affected_if_it_names_a_version_or_was_broken_before(self) -> None:
        named = self.CALLER.replace("playbook: import", "playbook: import, version: '1'")
        broken = self.CALLER.replace("day: x", "dya: x").replace("name: caller", "name: broken")
        registered = KnownPlaybooks(IMPORT, named, broken, f"name: other\n{QUIET}", SAVING)
        registered.reads.clear()
        assert diagnose_among(registered, IMPORT.replace("limit: ", "most: ")) == ()
        assert registered.reads == ["caller", "broken"]

    def test_only_users_of_an_alias_would_break_that_the_version_takes(self) -> None:
        aliased = self.CALLER.replace("playbook: import", "playbook: import, alias: stable")
        registered = KnownPlaybooks(IMPORT, self.CALLER, aliased.replace("name: caller", "name: other"))
        registered.promote("import", "1", "stable")
        changed = IMPORT.replace("day: string", "day: integer")

        def broken(*aliases: str) -> list[str]:
            found = diagnose_among(registered, changed, aliases=aliases)
            assert {finding.code for finding in found} <= {"NP822"}
            return [finding.message.partition("`")[2].partition("`")[0] for finding in found]

        assert broken() == []
        assert broken("live") == ["caller@1"]
        assert broken("stable") == ["other@1"]
        assert broken("new") == []
        registered.promote("caller", "1")
        registered.add(compiled(self.CALLER.replace("day: x", "day: 1")))
        assert broken("live") == ["caller@1"]

    def test_an_awaiting_trigger_would_break(self) -> None:
        after = awaiting(
            "after", "import", ", input: {n: '{{ trigger.result.rows }}'}", f"input: {{n: any}}\n{QUIET}"
        )
        changed = IMPORT.replace("output: {rows: ", "output: {lines: ")
        assert findings_among(KnownPlaybooks(IMPORT, after), changed) == [("NP822", "output")]
        assert findings_among(KnownPlaybooks(changed), after) == [("NP818", "rows")]

    def test_only_some_steps_of_callers_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "MAX_CALLER_STEPS", 1)
        registered = KnownPlaybooks(IMPORT, self.CALLER, self.CALLER.replace("name: caller", "name: second"))
        found = diagnose_among(registered, IMPORT.replace("day: string", "day: integer"))
        assert [finding.message.split("`")[1] for finding in found] == ["caller@1"]

    def test_callers_of_an_alias(self) -> None:
        call = "name: NAME\nsteps: [{name: a, run: [{action: workflow, playbook: child, alias: ALIAS}]}]\n"
        known = KnownPlaybooks("name: child\nsteps: [{name: a, run: [{action: log, message: x}]}]\n")
        for name, alias in (("stable", "stable"), ("canary", "canary"), ("child", "stable")):
            known.add(compiled(call.replace("NAME", name).replace("ALIAS", alias)))
        assert list(find_alias_callers("child", "stable", known, catalogue())) == [
            "line 2 of `child@2`",
            "line 2 of `stable@1`",
        ]
        assert list(find_alias_callers("child", "other", known, catalogue())) == []


CALL = "{action: workflow, playbook: %s}"


class TestRecursion:
    """NP819."""

    @pytest.mark.parametrize(
        ("rest", "is_endless"),
        [
            (CALL % "a", True),
            ("{action: workflow, playbook: a, detach: true}", True),
            ("{action: workflow, playbook: a, version: '1'}", True),
            ("{action: workflow, playbook: a, if: '{{ input }}'}", False),
            ("{action: workflow, playbook: a, if: true}", True),
            ("{action: workflow, playbook: a, loop: {items: [1]}}", False),
            ("{action: workflow, playbook: a, on_error: continue}", False),
            ("{action: workflow, playbook: other}", False),
        ],
    )
    def test_a_call_of_itself(self, rest: str, is_endless: bool) -> None:
        text = caller(rest, name="a", head="version: '1'\n")
        registered = KnownPlaybooks(f"name: other\n{QUIET}")
        found = findings_among(registered, text)
        assert found == ([("NP819", "a")] if is_endless else [])
        of_draft = preview_registration(compiled(text), registered, catalogue())
        assert of_draft == diagnose_among(registered, text)

    @pytest.mark.parametrize(
        ("rule", "is_endless"),
        [
            ("[{case: default, run: [b]}]", True),
            ("[{case: '{{ input }}', run: [b]}]", False),
            ("[{case: '{{ input }}', run: [b]}, {case: default, run: []}]", False),
            ("[{case: '{{ input }}', run: [b]}, {case: default, run: [c]}]", False),
            ("[{case: default, run: [b, c]}]", True),
            (f"[{{case: '{{{{ input }}}}', run: [b]}}, {{case: default, run: [{CALL % 'a'}]}}]", True),
            ("[{case: error, run: [c]}, {case: default, run: [b]}]", False),
        ],
    )
    def test_cases_that_lead_to_a_call(self, rule: str, is_endless: bool) -> None:
        text = (
            f"name: a\nsteps:\n  - {{name: s, run: [{{action: log, message: x}}], rule: {rule}}}\n"
            f"  - {{name: b, run: [{CALL % 'a'}]}}\n  - {{name: c, run: [{{action: log, message: x}}]}}\n"
        )
        found = [code for code, _ in findings_among(KnownPlaybooks(), text)]
        assert found == (["NP819"] if is_endless else [])

    def test_a_handled_failure_ends_the_recursion(self) -> None:
        text = caller("{action: http, url: 'https://x.test'}", CALL % "a", name="a")
        assert [code for code, _ in findings_among(KnownPlaybooks(), text)] == ["NP819"]
        handled = text + "    rule: [{case: error, run: []}]\n"
        assert findings_among(KnownPlaybooks(), handled) == []
        for head in ("on_error: continue\n", "    on_error: continue\n"):
            place = "steps:" if head[0] == "o" else "    run:"
            assert findings_among(KnownPlaybooks(), text.replace(place, head + place)) == []

    def test_a_call_in_a_task_and_in_the_last_step(self) -> None:
        task = f"tasks: {{deep: [{{task: call}}], call: [{CALL % 'a'}]}}\n"
        text = caller("{task: deep}", name="a", head=task)
        assert findings_among(KnownPlaybooks(), text) == [("NP819", "a")]
        last = caller("{action: log, message: x}", name="a", head="finally: z\n")
        last += f"  - {{name: z, run: [{CALL % 'a'}]}}\n"
        assert findings_among(KnownPlaybooks(), last) == [("NP819", "a")]

    def test_a_cycle_of_steps_comes_to_its_call(self) -> None:
        text = (
            "name: a\nsteps:\n  - name: s\n    max_visits: 3\n    run: [{action: log, message: x}]\n"
            "    rule: [{case: '{{ input }}', run: [s]}, {case: default, run: [b]}]\n"
            f"  - {{name: b, run: [{CALL % 'a'}]}}\n"
        )
        assert findings_among(KnownPlaybooks(), text) == [("NP819", "a")]

    def test_a_circle_of_registered_playbooks(self) -> None:
        registered = KnownPlaybooks(
            caller(CALL % "c", name="b"),
            "name: c\nsteps:\n"
            "  - {name: s, rule: [{case: '{{ input }}', run: [x]}, {case: default, run: [y]}]}\n"
            f"  - {{name: x, run: [{CALL % 'a'}]}}\n  - {{name: y, run: [{CALL % 'b'}]}}\n",
        )
        (found,) = diagnose_among(registered, caller(CALL % "b", name="a"))
        assert found.message == (
            "recursion without end: every path of the playbook leads to another run of it "
            "(`a` → `b` → `c` → `a`)"
        )
        # A draft is compared with itself only: the plans of others are not read for each state of a text.
        assert preview_registration(compiled(caller(CALL % "b", name="a")), registered, catalogue()) == ()
        registered.add(compiled(caller("{action: log, message: x}", name="b")))
        assert diagnose_among(registered, caller(CALL % "b", name="a")) == ()

    def test_an_alias_leads_to_its_version_only(self) -> None:
        text = caller("{action: workflow, playbook: a, alias: stable}", name="a")
        registered = KnownPlaybooks(f"name: a\n{QUIET}")
        registered.promote("a", "1", "stable")
        assert findings_among(registered, text) == []
        assert findings_among(registered, text, aliases=["stable"]) == [("NP819", "a")]

    def test_only_some_playbooks_and_steps_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        chain = [caller(CALL % f"p{number + 1}", name=f"p{number}") for number in range(5)]
        registered = KnownPlaybooks(*chain, caller(CALL % "a", name="p5"))
        text = caller(CALL % "p0", name="a")
        assert [code for code, _ in findings_among(registered, text)] == ["NP819"]
        with monkeypatch.context() as patch:
            patch.setattr(circles, "MAX_PLAYBOOKS", 5)
            assert findings_among(registered, text) == []
        with monkeypatch.context() as patch:
            patch.setattr(circles, "MAX_STEPS", 4)
            assert findings_among(registered, text) == []

    def test_steps_are_examined_up_to_a_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A playbook that leads to many others examines its steps for each of them."""
        examined: list[Plan] = []

        def always_calls(plan: Plan, is_wanted: object) -> bool:
            examined.append(plan)
            return False

        monkeypatch.setattr(circles, "always_calls", always_calls)
        steps = "".join(
            f"  - {{name: s{number}, run: [{CALL % f'p{number}'}],"
            f" rule: [{{case: default, run: [s{number + 1}]}}]}}\n"
            for number in range(30)
        )
        text = f"name: a\nsteps:\n{steps}  - {{name: s30, run: [{CALL % 'a'}]}}\n"
        registered = KnownPlaybooks()
        assert diagnose_among(registered, text, is_forced=True) == ()
        assert (len(examined), registered.pauses) == (32, 32)
        examined.clear()
        monkeypatch.setattr(circles, "MAX_EXAMINED", 10 * 62)
        assert diagnose_among(registered, text, is_forced=True) == ()
        assert len(examined) == 10


def awaiting(name: str, playbook: str, rest: str = "", body: str = QUIET) -> str:
    return f"name: {name}\ntriggers: [{{name: t, type: run, playbook: {playbook}{rest}}}]\n{body}"


class TestTriggersInACircle:
    """NP816."""

    def test_a_circle_of_triggers(self) -> None:
        registered = KnownPlaybooks(awaiting("b", "a"), awaiting("c", "b"))
        (found,) = diagnose_among(registered, awaiting("a", "c"))
        assert found.message == "`run` triggers in a circle: `a` → `b` → `c` → `a`"
        assert diagnose_among(registered, awaiting("d", "c")) == ()

    def test_the_old_version_of_a_playbook_does_not_count(self) -> None:
        registered = KnownPlaybooks(f"name: b\n{QUIET}", awaiting("a", "b"))
        assert findings_among(registered, awaiting("a", "b")) == []
        assert findings_among(registered, awaiting("b", "a")) == [("NP816", "a")]
        registered.add(compiled(f"name: a\n{QUIET}"))
        assert findings_among(registered, awaiting("b", "a")) == []

    def test_a_playbook_that_awaits_itself(self) -> None:
        for is_forced in (False, True):
            (found,) = diagnose_among(KnownPlaybooks(), awaiting("a", "a"), is_forced=is_forced)
            assert found.message == "`run` triggers in a circle: `a` → `a`"
        condition = ", if: '{{ trigger.result.more }}'"
        body = "output: {more: false}\n" + QUIET
        assert diagnose_among(KnownPlaybooks(), awaiting("a", "a", condition, body)) == ()

    def test_only_a_live_version_is_part_of_a_circle(self) -> None:
        text = f"name: b\ntriggers: [{{name: t, type: run, playbook: b}}]\n{QUIET}"
        assert findings_among(KnownPlaybooks(), text) == [("NP816", "b")]
        for aliases in ((), ("stable",)):
            assert findings_among(KnownPlaybooks(f"name: b\n{QUIET}"), text, aliases=aliases) == []

    def test_a_condition_ends_a_circle(self) -> None:
        condition = ", if: '{{ now() }}'"
        assert findings_among(KnownPlaybooks(awaiting("b", "a", condition)), awaiting("a", "b")) == []
        assert findings_among(KnownPlaybooks(awaiting("b", "a")), awaiting("a", "b", condition)) == []

    def test_a_call_of_every_run_closes_a_circle(self) -> None:
        called = caller("{action: workflow, playbook: b}", name="x").partition("\n")[2]
        registered = KnownPlaybooks(f"name: b\n{QUIET}")
        assert findings_among(registered, awaiting("a", "b", body=called)) == [("NP816", "b")]
        rarely = called.replace("playbook: b", "playbook: b, if: '{{ run.id }}'")
        assert findings_among(registered, awaiting("a", "b", body=rarely)) == []

    def test_a_call_may_be_what_closes_the_circle(self) -> None:
        registered = KnownPlaybooks(awaiting("c", "b"), f"name: b\n{QUIET}")
        registered.add(compiled(awaiting("c", "b", body=caller(CALL % "a", name="x").partition("\n")[2])))
        assert findings_among(registered, caller(CALL % "b", name="a")) == [("NP816", "b")]

    def test_a_circle_of_others_is_not_reported(self) -> None:
        registered = KnownPlaybooks(awaiting("b", "c"), awaiting("c", "b"))
        assert findings_among(registered, awaiting("a", "b")) == []


KINDS = st.sampled_from(["string", "integer", "number", "boolean", "object", "array", "any"])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.just(1.5),
    st.just("text"),
    st.just([1]),
    st.just({"k": 1}),
)
NAMES = st.sampled_from(["a", "b", "c"])


@st.composite
def declared_inputs(draw: st.DrawFn) -> dict[str, Any]:
    declared: dict[str, Any] = {}
    for name in draw(st.sets(NAMES)):
        declared[name] = {"type": draw(KINDS)}
        if draw(st.booleans()):
            declared[name]["default"] = None
    return declared


@given(declared_inputs(), st.dictionaries(NAMES, VALUES))
def test_a_call_fits_if_a_start_accepts_its_inputs(declared: dict[str, Any], inputs: dict[str, Any]) -> None:
    target = compiled(
        json.dumps(
            {
                "name": "target",
                "input": declared,
                "steps": [{"name": "s", "run": [{"action": "log", "message": "x"}]}],
            }
        )
    )
    action = {"action": "workflow", "playbook": "target", "input": inputs}
    registered = KnownPlaybooks()
    registered.add(target)
    text = json.dumps({"name": "caller", "steps": [{"name": "s", "run": [action]}]})
    found: tuple[Diagnostic, ...] = diagnose_among(registered, text)
    try:
        check_inputs(target.header, inputs)
    except RejectedError as error:
        assert len(found) == len(error.details["inputs"])
    else:
        assert found == ()


@st.composite
def forward_plans(draw: st.DrawFn) -> Plan:
    """Return a plan without cycles, whose calls are actions of the type `call`."""
    count = draw(st.integers(1, 4))
    names = [f"s{number}" for number in range(count)]
    works: st.SearchStrategy[tuple[Work, ...]] = st.sampled_from(
        [
            (),
            (Action("log", {}),),
            (Action("call", {}),),
            (Action("call", {}, condition="{{ x }}"),),
            (TaskCall("call", {}),),
            (TaskCall("quiet", {}), TaskCall("call", {}, forgiven=True)),
        ]
    )
    steps: dict[str, Step] = {}
    for number, name in enumerate(names):
        later = st.lists(st.sampled_from(names[number + 1 :] or [""]), max_size=2, unique=True)
        cases = []
        for guard in draw(st.lists(st.sampled_from(["{{ x }}", "{{ error }}", None]), max_size=3)):
            targets = tuple(target for target in draw(later) if target)
            work = () if targets else draw(works)
            cases.append(Case(guard, guard == "{{ error }}", targets, work))
        on_error = draw(st.sampled_from(["abort", "abort", "continue"]))
        steps[name] = Step(name, draw(works), cases=tuple(cases), on_error=on_error, retry=Retry())
    tasks = {"call": Task((TaskCall("deep", {}),)), "deep": Task((Action("call", {}),)), "quiet": Task(())}
    return Plan(Header("p", "s0"), steps, tasks)


def calls_always(work: Work) -> bool:
    name = work.task if isinstance(work, TaskCall) else work.type
    return name == "call" and work.condition is None and not work.forgiven


def ends_without_call(plan: Plan, choice: dict[str, int | None]) -> bool:
    """Return whether a run makes no call if each step takes one case, or fails or ends (None)."""
    reached, new = set(), ["s0"]
    while new:
        step = plan.steps[new.pop()]
        if step.name in reached:
            continue
        reached.add(step.name)
        calls = any(map(calls_always, step.run))
        number = choice[step.name]
        if number is None:
            is_possible = step.on_error == "continue" or not any(case.guard is None for case in step.cases)
            if (calls and step.on_error != "continue") or not is_possible:
                return False
            continue
        case = step.cases[number]
        if (calls and not case.error_aware) or any(map(calls_always, case.work)):
            return False
        new += case.targets
    return True


@given(forward_plans())
def test_certain_calls_are_those_that_no_choice_of_cases_avoids(plan: Plan) -> None:
    choices = [[None, *range(len(step.cases))] for step in plan.steps.values()]
    can_avoid = any(
        ends_without_call(plan, dict(zip(plan.steps, choice, strict=True))) for choice in product(*choices)
    )
    assert always_calls(plan, lambda action: action.type == "call") == (not can_avoid)
