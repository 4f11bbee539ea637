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

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from noetl.planner.checks.name_usage import definition_span
from noetl.planner.dataflow.fact_encoding import fact_key
from noetl.planner.dataflow.narrowing import FAILED, narrow
from noetl.planner.dataflow.solver import AnalysisLimitError, AssignmentSolver
from noetl.planner.dataflow.step_effects import EffectsAnalysis
from noetl.planner.dataflow.transfer import ALL_FACTS, FactSet, Requirements, UnmetRead
from noetl.planner.dataflow.unreachable import (
    Unreachable,
    UnreachableCases,
    find_unreachable_cases,
    solve_assignments,
)
from noetl.planner.dataflow.witness import Witness, WitnessMove, find_end_witness, find_witness
from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.diagnostics.wording import join_words
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateScope, TemplateUse
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Step, TaskEntry

MAX_WITNESSES = 200
"""For how many findings a path is searched. Hundreds of them mostly have one cause."""
MAX_SHOWN = 12
"""How many steps of a path a message names, and how many labels it has."""
ARROW = " → "


def check_undefined_names(program: Program) -> Unreachable:
    """Report reads of names that are or may be undefined, and unreachable cases. Return what no run does."""
    analysis = EffectsAnalysis(program)
    if not analysis.encoder.keys:
        return Unreachable()
    try:
        solver = solve_assignments(program, analysis)
    except AnalysisLimitError:
        return Unreachable(encoder=analysis.encoder)
    solution = solver.solution
    finally_step = program.playbook.finally_
    if finally_step is not None and finally_step not in solution.must:
        analysis.set_success_facts(finally_step, solution.end_must)
    check = _UndefinedNameCheck(program, analysis, solver)
    check.report_all()
    unreachable = find_unreachable_cases(analysis, solver)
    if unreachable:
        # A case is only unreachable if it also is after the loss of a worker. Reads ignore such losses.
        pessimistic = EffectsAnalysis(program, assumes_worker_loss=True)
        try:
            unreachable &= find_unreachable_cases(pessimistic, solve_assignments(program, pessimistic))
        except AnalysisLimitError:
            unreachable = frozenset()
    check.report_unreachable_cases(unreachable)
    return Unreachable(unreachable, analysis.encoder, solution.must)


class _UndefinedNameCheck:
    def __init__(self, program: Program, analysis: EffectsAnalysis, solver: AssignmentSolver) -> None:
        self.program = program
        self.analysis = analysis
        self.encoder = analysis.encoder
        self.solver = solver
        self.solution = solver.solution
        self.reported: set[tuple[DocumentPath, FactSet]] = set()
        self.witness_searches = 0
        self.end_must_after_success = self.end_must_after_failure = 0

    def report_unreachable_cases(self, unreachable: UnreachableCases) -> None:
        """Report unreachable cases, except for those that follow from an undefined name.

        A step that reads an undefined name always fails, so facts behind it follow from that mistake.
        """
        reported_facts = {bit for _, bit in self.reported}
        after_mistakes = self.find_steps_after_mistakes() if unreachable else frozenset()
        for name, index in sorted(unreachable):
            bit, reason = self.explain_unreachable(name, index)
            if reason is None or self.always_reads_undefined_name(name):
                continue
            if name in after_mistakes and self.depends_on_path(bit):
                continue
            step = self.program.symbols.steps[name]
            already_dead = {dead.case for dead in self.program.dead_cases(step)}
            if bit not in reported_facts and index not in already_dead:
                path = (*(step.rule or [])[index].path, "case")
                self.program.report("NP203", f"unreachable case: {reason}", path, key=True)

    def always_reads_undefined_name(self, step: str) -> bool:
        """Return whether a step requires a fact that no path to it adds."""
        required = self.analysis.effects[step].required_from_entry
        return bool(required & ~self.solution.may[step] & ~self.solution.must[step])

    def find_steps_after_mistakes(self) -> AbstractSet[str]:
        """Return the steps that can be reached from a step that reads an undefined name."""
        stack = [name for name in self.solution.must if self.always_reads_undefined_name(name)]
        reached: set[str] = set()
        while stack:
            successors = self.program.cfg.graph.succ[stack.pop()].keys() - reached
            reached |= successors
            stack += successors
        return reached

    def depends_on_path(self, bit: FactSet) -> bool:
        """Return whether a fact may hold on one path and not on another; also true without a fact (0)."""
        return not bit or (not bit & self.encoder.at_start and self.has_definition(self.encoder.key(bit)))

    def explain_unreachable(self, step: str, case: int) -> tuple[FactSet, str | None]:
        """Return the fact because of which a case is never taken, and the reason in words.

        There is no reason if nothing assigns the name: each path to the step then reads it before, and fails.
        """
        effects = self.analysis.effects[step]
        if facts := effects.shadowed.get(case, 0):
            return facts & -facts, "an earlier case is always taken"
        for situation in effects.taken[case]:
            if missing := situation.assigned_on_entry & ~self.solution.may[step]:
                bit = missing & -missing
                key = self.encoder.key(bit)
                if self.has_definition(key):
                    return bit, f"no path to this step {_event(key)}"
                return bit, f"nothing in the playbook assigns `{key}`"
            if facts := situation.unassigned_on_entry & self.solution.must[step]:
                bit = facts & -facts
                key = self.encoder.key(bit)
                if bit & self.encoder.at_start:
                    return bit, f"`{key}` always has a value"
                is_assigned = self.has_definition(key)
                return bit, f"every path to this step {_event(key)}" if is_assigned else None
        facts = effects.refuted.get(case, 0)
        return facts & -facts, "its guard is never true"

    def report_all(self) -> None:
        """Report all reads of names that are or may be undefined."""
        solution = self.solution
        steps = self.program.symbols.steps
        for name, must in solution.must.items():
            self.report_step(steps[name], solution.may[name], must)
        finally_step = self.program.playbook.finally_
        if finally_step is not None and finally_step not in solution.must:
            self.report_step(steps[finally_step], solution.end_may, self.encoder.at_start)
        self.find_end_facts()
        must = self.end_must_after_success & self.end_must_after_failure
        for use in self.program.uses:
            if use.scope is TemplateScope.OUTPUT:
                requirements = Requirements(traced=~must)
                self.analysis.work.apply_template(use, must, 0, requirements)
                self.report_reads(requirements.first_reads, self.may_on_entry(None), None)

    def find_end_facts(self) -> None:
        """Find the facts that hold where the output is evaluated, which is after the `finally` step.

        It is not evaluated if all branches succeed but the `finally` step fails.
        """
        solution = self.solution
        self.end_must_after_success = solution.end_must
        self.end_must_after_failure = solution.end_must_after_failures
        finally_step = self.program.playbook.finally_
        if finally_step is None or finally_step in solution.must:
            return
        after_success = after_any = ALL_FACTS
        for exit_ in self.analysis.effects[finally_step].exits:
            after_any &= exit_.gen
            after_success &= ALL_FACTS if exit_.is_unhandled_failure else exit_.gen
        self.end_must_after_success |= after_success
        self.end_must_after_failure |= after_any if self.solver.tolerates_failures else ALL_FACTS

    def may_on_entry(self, step: Step | None) -> FactSet:
        """Return the facts that may hold on entry of a step, or where the output is evaluated (`None`)."""
        solution = self.solution
        if step is not None:
            return solution.may.get(step.name, solution.end_may)
        facts = solution.end_may
        if (finally_step := self.program.playbook.finally_) is not None:
            for exit_ in self.analysis.effects[finally_step].exits:
                facts |= exit_.may_gen
        return facts

    def report_step(self, step: Step, may: FactSet, must: FactSet) -> None:
        if missing := self.analysis.effects[step.name].required & ~must:
            self.report_reads(self.analysis.find_first_reads(step, missing), may, step)

    def report_reads(self, reads: Mapping[FactSet, UnmetRead], may: FactSet, step: Step | None) -> None:
        """Report unmet reads. A fact implied by one reported before in the same template is left out."""
        reported_by_path: dict[DocumentPath, FactSet] = {}

        def offset(item: tuple[FactSet, UnmetRead]) -> int:
            return _find_offset(self.encoder.key(item[0]), item[1].use)

        for bit, read in sorted(reads.items(), key=offset):
            earlier = reported_by_path.get(read.use.path, 0)
            if not bit & self.analysis.work.with_implied(earlier, 0) & ~earlier:
                self.report_read(bit, read, may, step)
            reported_by_path[read.use.path] = earlier | bit

    def report_read(self, bit: FactSet, read: UnmetRead, may: FactSet, step: Step | None) -> None:
        """Report one unmet read of a step, or of the output (`None`).

        In a task with many callers, only once.
        """
        key, use = self.encoder.key(bit), read.use
        base = self.encoder.base(bit)
        if (use.path, base) in self.reported:
            return
        # A name that nothing assigns is reported by `noetl.planner.checks.references`.
        if not (self.has_definition(key) or key in use.item_names):
            return
        self.reported.add((use.path, base))
        is_playbook_retry = use.path[0] == "retry"
        if read.only_from_entry and not base & may and not is_playbook_retry:
            self.report_undefined(key, use, step)
        else:
            self.report_maybe_undefined(key, bit, read, step)

    def has_definition(self, key: str) -> bool:
        return key.startswith("steps.") or key in self.program.definitions

    def report_undefined(self, key: str, use: TemplateUse, step: Step | None) -> None:
        """Report a read that no path makes defined (NP301)."""
        diagnostics = self.program.diagnostics
        span = self.find_span(key, use)
        message = f"no path to {'this step' if step is not None else 'the output'} {_event(key)}"
        if key.startswith("steps."):
            is_own_result = step is not None and key == f"steps.{step.name}"
            diagnostics.add("NP301", message, span, _READ_RESULT if is_own_result else _TEST_FIRST)
            return
        may = self.may_on_entry(step)
        # One string instead of one `&` per name, whose cost would be quadratic in the number of names.
        digits = reversed(f"{may & self.encoder.name_facts:0{len(self.encoder.bits)}b}")
        undefined = {name for name, digit in zip(self.encoder.bits, digits, strict=True) if digit == "0"}
        hint = diagnostics.did_you_mean(key, self.program.defined_names - undefined) or _SAVE_ALWAYS
        diagnostics.add("NP301", message, span, hint, labels=self.definition_labels(key))

    def definition_labels(self, key: str) -> Iterator[Label]:
        if key in self.program.definitions:
            span = definition_span(self.program, self.program.definitions[key])
            yield Label(span, "it is saved here")

    def report_maybe_undefined(self, key: str, bit: FactSet, read: UnmetRead, step: Step | None) -> None:
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
        span = self.find_span(key, read.use)
        if step is not None and step.name == finally_step:
            diagnostics.add("NP302", f"{problem}: the run may end earlier", span, hint)
            return
        if step is None and bit & self.end_must_after_success & ~self.solution.end_must:
            message = f"{problem} in a run with failures: step `{finally_step}` may fail too"
            diagnostics.add("NP302", message, span, hint)
            return
        if step is None:
            with_failures = bool(self.end_must_after_success & bit)
            witness = find_end_witness(self.solver, bit, with_failures=with_failures)
        else:
            witness = find_witness(self.solver, step.name, bit)
        if witness is None:
            diagnostics.add("NP302", problem, span, hint)
            return
        message = f"{problem}{self.describe_witness(witness, read, step)}"
        labels = self.witness_labels(witness) or self.optional_definition_labels(key, step)
        diagnostics.add("NP302", message, span, hint, labels=labels)

    def optional_definition_labels(self, key: str, step: Step | None) -> list[Label]:
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

    def describe_witness(self, witness: Witness, read: UnmetRead, step: Step | None) -> str:
        """Return a witness in words, to follow the problem."""
        names = [f"{move.step} (failed)" if move.failed else move.step for move in witness.path]
        if step is not None:
            names.append(f"{step.name} (failed)" if read.results == FAILED else step.name)
        if len(names) > MAX_SHOWN:
            names[MAX_SHOWN // 2 : -MAX_SHOWN // 2] = ["…"]
        text = f" on the path {ARROW.join(names)}" if len(names) > 1 else ""
        if not text and step is not None and read.results == FAILED:
            text = f" when `{step.name}` has failed"
        if not text and step is None and witness.path[0].failed:
            text = f" when `{witness.path[0].step}` fails"
        ends = [move for move in witness.other_moves if self.ends_branch(move)]
        for failed, verb in ((False, "end"), (True, "fail")):
            steps = [f"`{move.step}`" for move in ends if move.failed is failed][:MAX_SHOWN]
            if steps:
                text += f", where {join_words(steps, 'and')} {verb}{'s' if len(steps) == 1 else ''}"
        return text

    def ends_branch(self, move: WitnessMove) -> bool:
        return move.case is None or not self.program.cfg.targets[move.step][move.case]

    def witness_labels(self, witness: Witness) -> list[Label]:
        """Return labels at the cases that a witness takes, where there is a choice."""
        document = self.program.document
        labels = []
        for move in witness.moves:
            step = self.program.symbols.steps[move.step]
            if move.case is not None and step.rule is not None and len(step.rule) > 1:
                path = (*step.rule[move.case].path, "case")
                labels.append(Label(document.span(path), "this case is taken"))
            elif move.case is None and step.rule:
                text = "this step fails" if move.failed else "no case matches"
                labels.append(Label(self.program.name_span(step), text))
        return labels[:MAX_SHOWN]

    def find_span(self, key: str, use: TemplateUse) -> Span:
        """Return the span of the name in a template."""
        word = key.removeprefix("steps.")
        start = max(use.template.source.find(word, _find_offset(key, use)), 0)
        return self.program.document.text_span(use.path, start, start + len(word))


_SAVE_ALWAYS = "save it on every path"
_READ_RESULT = "in the `rule` of a step, read its own result as `result`"
_TEST_FIRST = "test its `status` first, or use `is defined`"
_TEST_STATUS = "test its `status` first"


def _event(key: str) -> str:
    """Return the event that makes a fact hold, as the end of a sentence."""
    return f"visits step `{key.removeprefix('steps.')}`" if key.startswith("steps.") else f"assigns `{key}`"


def _find_offset(key: str, use: TemplateUse) -> int:
    """Return the offset in a template of the first access that requires a key."""
    required = ((item.access, item.offset) for item in narrow(use.template).required)
    reads = (*required, *use.template.reads.items())
    return next(offset for access, offset in reads if fact_key(access) == key)
