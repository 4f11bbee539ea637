"""NP301, NP302 and NP203: names that are undefined where a template reads them, and unreachable cases.

Problem: Every name that a template reads must be assigned on every path to it. A case whose guard asks for
facts that cannot hold is unreachable.

Algorithm: The definite-assignment analysis (`noetl.planner.dataflow.solver`). A required fact outside of the
may set is reported as undefined (NP301), one outside of the must set as maybe undefined (NP302). The path in
the message comes from `noetl.planner.dataflow.witness`.

Cost: That of the analysis, plus one witness search per finding, at most `MAX_WITNESSES`.

Limits: If the analysis exceeds its limit, nothing is reported. After `MAX_WITNESSES` findings of NP302, the
others are only counted (NP902).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from noetl.planner.checks.name_usage import definition_span
from noetl.planner.dataflow.fact_encoding import FactTable, fact_key
from noetl.planner.dataflow.narrowing import FAILED, narrow
from noetl.planner.dataflow.solver import AssignmentSolution, analyse_assignment, solve_table
from noetl.planner.dataflow.step_effects import output_effects, step_effects
from noetl.planner.dataflow.transfer import (
    ALL_FACTS,
    EMPTY,
    AnalysisLimitError,
    FactSet,
    Implications,
    StepEffects,
    StepExit,
    UnmetCall,
    UnmetRead,
    split_facts,
    with_implied,
)
from noetl.planner.dataflow.unreachable import Unreachable, UnreachableCases
from noetl.planner.dataflow.witness import Witness, find_end_witness, find_witness
from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.diagnostics.wording import join_words
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Step, TaskEntry

MAX_WITNESSES = 200
"""For how many findings a path is searched. Hundreds of them mostly have one cause."""
MAX_SHOWN = 12
"""How many steps of a path a message names, and how many labels it has."""
ARROW = " → "


def report_undefined_names(program: Program) -> Unreachable:
    """Report reads of names that are or may be undefined, and unreachable cases. Return what no run does."""
    table, solution, implications = program.result_of(analyse_assignment)
    if not table.has_reads:
        return Unreachable()
    if solution is None:
        return Unreachable(table=table)
    check = _UndefinedNameCheck(program, table, solution, implications)
    check.report_reads()
    unreachable = _find_unreachable_cases(solution)
    if unreachable:
        # A case is only unreachable if it also is after the loss of a worker. Reads ignore such losses.
        try:
            pessimistic, _ = solve_table(program, table, assumes_worker_loss=True)
            unreachable &= _find_unreachable_cases(pessimistic)
        except AnalysisLimitError:
            unreachable = frozenset()
    check.report_unreachable_cases(unreachable)
    return Unreachable(unreachable, table, solution.must)


def _find_unreachable_cases(solution: AssignmentSolution) -> UnreachableCases:
    """Return the cases of reachable steps that are ruled out, or taken in no possible state."""
    unreachable: set[tuple[str, int]] = set()
    for name, must in solution.must.items():
        if must != ALL_FACTS:
            effects = solution.effects[name]
            unreachable.update((name, index) for index in effects.ruled_out)
            for index, states in effects.taken.items():
                if not any(solution.is_possible(name, state) for state in states):
                    unreachable.add((name, index))
    return frozenset(unreachable)


class _UndefinedNameCheck:
    def __init__(
        self, program: Program, table: FactTable, solution: AssignmentSolution, implications: Implications
    ) -> None:
        self.program = program
        self.table = table
        self.effects = solution.effects
        self.solution = solution
        self.implications = implications
        self.reported: set[tuple[DocumentPath, FactSet]] = set()
        self.witness_searches = 0
        self.end_must_after_success = self.solution.end_must
        self.end_must_after_failure = self.solution.end_must_after_failures

    def report_unreachable_cases(self, unreachable: UnreachableCases) -> None:
        """Report unreachable cases, except for those that follow from an undefined name.

        A step that reads an undefined name always fails, so facts behind it follow from that mistake.
        """
        reported_facts = {fact for _, fact in self.reported}
        mistaken = {name for name in self.solution.must if self._always_reads_undefined_name(name)}
        after_mistakes = _find_steps_after(self.program, mistaken) if unreachable else frozenset()
        for name, index in sorted(unreachable):
            fact, reason = self._explain_unreachable(name, index)
            if reason is None or name in mistaken or fact in reported_facts:
                continue
            is_on_some_path = not fact & self.table.at_start and self._has_definition(self.table.key(fact))
            if name in after_mistakes and (not fact or is_on_some_path):
                continue
            step = self.program.symbols.steps[name]
            if index not in {dead.case for dead in self.program.dead_cases(step)}:
                path = (*(step.rule or [])[index].path, "case")
                self.program.report("NP203", f"unreachable case: {reason}", path, key=True)

    def _always_reads_undefined_name(self, step: str) -> bool:
        """Return whether a step requires a fact that no path to it adds."""
        required = self.effects[step].required_from_entry
        return bool(required & ~self.solution.may[step] & ~self.solution.must[step])

    def _explain_unreachable(self, step: str, case: int) -> tuple[FactSet, str | None]:
        """Return the fact because of which a case is never taken, and the reason in words.

        There is no reason if nothing assigns the name: each path to the step then reads it before, and fails.
        """
        effects = self.effects[step]
        if case in effects.ruled_out:
            facts, reason = effects.ruled_out[case]
            return next(split_facts(facts)), reason
        situation = effects.taken[case][0]
        if missing := situation.assigned_on_entry & ~self.solution.may[step]:
            fact = next(split_facts(missing))
            key = self.table.key(fact)
            is_assigned = self._has_definition(key)
            return (
                fact,
                f"no path to this step {_event(key)}"
                if is_assigned
                else f"nothing in the playbook assigns `{key}`",
            )
        fact = next(split_facts(situation.unassigned_on_entry & self.solution.must[step]))
        key = self.table.key(fact)
        if fact & self.table.at_start:
            return fact, f"`{key}` always has a value"
        return fact, f"every path to this step {_event(key)}" if self._has_definition(key) else None

    def report_reads(self) -> None:
        """Report all reads of names that are or may be undefined."""
        solution, steps = self.solution, self.program.symbols.steps
        for name, must in solution.must.items():
            self._report_step(steps[name], self.effects[name], solution.may[name], must)
        finally_step, may = self.program.playbook.finally_, solution.end_may
        if finally_step is not None and finally_step not in steps:
            return
        implications = {**self.implications, self.table.run_succeeded: solution.end_must}
        if finally_step is not None:
            names = (finally_step,)
            effects = step_effects(self.program, self.table, implications, names=names)[finally_step]
            if finally_step not in solution.must:
                self._report_step(steps[finally_step], effects, may, self.table.at_start)
                self._add_finally_step(effects.exits)
            for exit_ in effects.exits:
                may |= exit_.may_gen
        must = self.end_must_after_success & self.end_must_after_failure
        self._report_step(None, output_effects(self.program, self.table, implications, must), may, must)

    def _add_finally_step(self, exits: Sequence[StepExit]) -> None:
        """Add what the `finally` step assigns to the facts that hold where the output is evaluated.

        It is not evaluated if all branches succeed but the `finally` step fails.
        """
        after_success = after_any = ALL_FACTS
        for exit_ in exits:
            after_any &= exit_.gen
            after_success &= ALL_FACTS if exit_.is_unhandled_failure else exit_.gen
        self.end_must_after_success |= after_success
        self.end_must_after_failure |= after_any if self.solution.tolerates_failures else ALL_FACTS

    def _report_step(self, step: Step | None, effects: StepEffects, may: FactSet, must: FactSet) -> None:
        """Report the unmet reads of a step, or of the output (`None`).

        A fact implied by one reported before in the same template is left out. A name that the step itself
        may have assigned implies nothing, because those facts come from other visits.
        """
        missing = effects.required & ~must
        reads = [*_find_first_reads(effects.reads, missing, self.table)] if missing else []
        reported_by_path: dict[DocumentPath, FactSet] = {}
        for read in sorted(reads, key=lambda read: _find_offset(self.table.key(read.facts), read.use)):
            earlier = reported_by_path.get(read.use.path, EMPTY)
            implied = with_implied(earlier & self.table.name_facts & ~read.may, self.implications)
            if not read.facts & implied & ~earlier:
                self._report_read(read, may, step)
            reported_by_path[read.use.path] = earlier | read.facts

    def _report_read(self, read: UnmetRead, may: FactSet, step: Step | None) -> None:
        """Report one unmet read. In a task with many callers, only once."""
        key, use, base = self.table.key(read.facts), read.use, self.table.base(read.facts)
        # A name that nothing assigns is reported by `noetl.planner.checks.references`.
        if (use.path, base) in self.reported or not (self._has_definition(key) or key in use.item_names):
            return
        self.reported.add((use.path, base))
        is_playbook_retry = use.path[0] == "retry"
        if not read.facts & read.may and not base & may and not is_playbook_retry:
            self._report_undefined(key, use, may, step)
        else:
            self._report_maybe_undefined(key, read, step)

    def _has_definition(self, key: str) -> bool:
        return key.startswith("steps.") or key in self.program.definitions

    def _report_undefined(self, key: str, use: TemplateUse, may: FactSet, step: Step | None) -> None:
        """Report a read that no path makes defined (NP301)."""
        diagnostics = self.program.diagnostics
        span = self._find_span(key, use)
        message = f"no path to {'this step' if step is not None else 'the output'} {_event(key)}"
        if key.startswith("steps."):
            is_own_result = step is not None and key == f"steps.{step.name}"
            diagnostics.add("NP301", message, span, _READ_RESULT if is_own_result else _TEST_FIRST)
            return
        # One string instead of one `&` per name, whose cost would be quadratic in the number of names.
        digits = reversed(f"{may & self.table.name_facts:0{len(self.table.bits)}b}")
        undefined = {name for name, digit in zip(self.table.bits, digits, strict=True) if digit == "0"}
        hint = diagnostics.did_you_mean(key, self.program.defined_names - undefined) or _SAVE_ALWAYS
        labels = []
        if key in self.program.definitions:
            labels = [Label(definition_span(self.program, self.program.definitions[key]), "it is saved here")]
        diagnostics.add("NP301", message, span, hint, labels=labels)

    def _report_maybe_undefined(self, key: str, read: UnmetRead, step: Step | None) -> None:
        """Report a read that some path leaves undefined (NP302), with such a path."""
        diagnostics, finally_step = self.program.diagnostics, self.program.playbook.finally_
        self.witness_searches += 1
        if self.witness_searches > MAX_WITNESSES:
            diagnostics.count_unreported(1)
            return
        if key.startswith("steps."):
            problem, hint = f"step `{key.removeprefix('steps.')}` may be unvisited", _TEST_STATUS
        else:
            problem, hint = f"`{key}` may be undefined", f"{_SAVE_ALWAYS}, or use `{key} | default(…)`"
        witness, labels = None, []
        if step is not None and step.name == finally_step:
            problem = f"{problem}: the run may end earlier"
        elif step is None and read.facts & self.end_must_after_success & ~self.solution.end_must:
            problem = f"{problem} in a run with failures: step `{finally_step}` may fail too"
        elif step is None:
            with_failures = bool(self.end_must_after_success & read.facts)
            witness = find_end_witness(self.solution, read.facts, with_failures=with_failures)
        else:
            witness = find_witness(self.solution, step.name, read.facts)
        if witness is not None:
            problem += self._describe_witness(witness, read, step)
            labels = self._witness_labels(witness) or self._optional_definition_labels(key, step)
        diagnostics.add("NP302", problem, self._find_span(key, read.use), hint, labels=labels)

    def _optional_definition_labels(self, key: str, step: Step | None) -> list[Label]:
        """Return labels at the entries of a step that save a name but may be skipped or fail."""
        labels = []
        for entry in step.run or () if step is not None else ():
            if not isinstance(entry, ActionEntry | TaskEntry) or (
                entry.if_ is None and entry.on_error is None
            ):
                continue
            text = f"it is saved here, unless this {'is skipped' if entry.if_ is not None else 'fails'}"
            paths = (path for name, path in find_saved_names([entry]) if name == key)
            labels += [Label(definition_span(self.program, path), text) for path in paths]
        return labels[:MAX_SHOWN]

    def _describe_witness(self, witness: Witness, read: UnmetRead, step: Step | None) -> str:
        """Return a witness in words, to follow the problem."""
        names = [f"{exit_.step} (failed)" if exit_.failed else exit_.step for exit_ in witness.path]
        if step is not None:
            names.append(f"{step.name} (failed)" if read.results == FAILED else step.name)
        if len(names) > MAX_SHOWN:
            names[MAX_SHOWN // 2 : -MAX_SHOWN // 2] = ["…"]
        text = f" on the path {ARROW.join(names)}" if len(names) > 1 else ""
        if not text and step is not None and read.results == FAILED:
            text = f" when `{step.name}` has failed"
        if not text and step is None and witness.path[0].failed:
            text = f" when `{witness.path[0].step}` fails"
        ends = [exit_ for exit_ in witness.other_exits if not exit_.targets]
        for failed, verb in ((False, "end"), (True, "fail")):
            steps = [f"`{exit_.step}`" for exit_ in ends if exit_.failed is failed][:MAX_SHOWN]
            if steps:
                text += f", where {join_words(steps, 'and')} {verb}{'s' if len(steps) == 1 else ''}"
        return text

    def _witness_labels(self, witness: Witness) -> list[Label]:
        """Return labels at the cases that a witness takes, where there is a choice."""
        document = self.program.document
        labels = []
        for exit_ in (*witness.path, *witness.other_exits):
            step = self.program.symbols.steps[exit_.step]
            if exit_.case is not None and step.rule is not None and len(step.rule) > 1:
                path = (*step.rule[exit_.case].path, "case")
                labels.append(Label(document.span(path), "this case is taken"))
            elif exit_.case is None and step.rule:
                text = "this step fails" if exit_.failed else "no case matches"
                labels.append(Label(self.program.name_span(step), text))
        return labels[:MAX_SHOWN]

    def _find_span(self, key: str, use: TemplateUse) -> Span:
        """Return the span of the name in a template."""
        word = key.removeprefix("steps.")
        start = max(use.template.source.find(word, _find_offset(key, use)), 0)
        return self.program.document.text_span(use.path, start, start + len(word))


_SAVE_ALWAYS = "save it on every path"
_READ_RESULT = "in the `rule` of a step, read its own result as `result`"
_TEST_FIRST = "test its `status` first, or use `is defined`"
_TEST_STATUS = "test its `status` first"


def _find_first_reads(
    reads: Iterable[UnmetRead | UnmetCall], facts: FactSet, table: FactTable
) -> Iterator[UnmetRead]:
    """Yield the first template that requires each of these facts, in a step or in a task that it calls."""
    for read in reads:
        for fact in split_facts(read.facts & facts):
            facts ^= fact
            if isinstance(read, UnmetRead):
                yield read._replace(facts=fact)
                continue
            called = _find_first_reads(read.task.reads, fact | table.base(fact), table)
            # A read of the fact itself, and not of the name that a clause is about, comes first.
            inner = min(called, key=lambda inner: inner.facts != fact, default=None)
            if inner is not None:
                yield UnmetRead(fact, inner.may | read.may, read.results, inner.use)


def _find_steps_after(program: Program, steps: Iterable[str]) -> AbstractSet[str]:
    """Return the steps to which a path leads from one of these."""
    stack, reached = [*steps], set[str]()
    while stack:
        successors = program.cfg.graph.succ[stack.pop()].keys() - reached
        reached |= successors
        stack += successors
    return reached


def _event(key: str) -> str:
    """Return the event that makes a fact hold, as the end of a sentence."""
    return f"visits step `{key.removeprefix('steps.')}`" if key.startswith("steps.") else f"assigns `{key}`"


def _find_offset(key: str, use: TemplateUse) -> int:
    """Return the offset in a template of the first access that requires a key."""
    required = ((item.access, item.offset) for item in narrow(use.template).required)
    reads = (*required, *use.template.reads.items())
    return next(offset for access, offset in reads if fact_key(access) == key)
