/** Two versions of a playbook: the steps that differ, and the lines. */

import { diffLines } from "diff";
import { useMemo, useState } from "preact/hooks";

import { go, setParams, useAddress } from "../address";
import type { Page } from "../answers";
import { Drawing, type NodeMark } from "../drawing/panel";
import { count, plural } from "../format";
import { useAnswer } from "../parts/context";
import { wordOf } from "../parts/state";
import { printable } from "../parts/value";
import type { PlanAnswer, PlaybookDocument, PlaybookEntry } from "./answers";
import { playbookLink, playbookPath } from "./addresses";
import { usePlan } from "./loading";
import { compareSteps, type StepChanges } from "./steps";

/** Lines around a change that are shown, and how long the comparison may take, in milliseconds. */
const CONTEXT = 3;
const MAX_MS = 1500;

export function DiffTab({ name }: { name: string }) {
  const { params } = useAddress();
  const listed = useAnswer<Page<PlaybookEntry>>(`${playbookPath(name)}/versions`);
  const versions = listed.data?.items.map(({ version }) => version) ?? [];
  const a = params.get("a") ?? versions[1] ?? versions[0] ?? null;
  const b = params.get("b") ?? versions[0] ?? null;
  const first = useAnswer<PlaybookDocument>(a === null ? null : playbookPath(name, a));
  const second = useAnswer<PlaybookDocument>(b === null ? null : playbookPath(name, b));
  const problem = [listed, first, second].find((answer) => answer.problem)?.problem;
  return (
    <div class="tab diff" tabIndex={0} role="region" aria-label="Differences of two versions">
      <form class="pair" onSubmit={(event) => event.preventDefault()}>
        <VersionField label="From" value={a} versions={versions} onVersion={(version) => setParams({ a: version, b }, { replace: true })} />
        <VersionField label="To" value={b} versions={versions} onVersion={(version) => setParams({ a, b: version }, { replace: true })} />
        <button type="button" onClick={() => setParams({ a: b, b: a }, { replace: true })}>
          Swap
        </button>
      </form>
      {problem && <p class="problem" role="alert">{problem}</p>}
      {first.data && second.data ? (
        <Comparison key={`${a} ${b}`} a={first.data} b={second.data} />
      ) : (
        !problem && <p class="empty">Reading the versions …</p>
      )}
    </div>
  );
}

interface VersionFieldProps {
  label: string;
  value: string | null;
  versions: string[];
  onVersion: (version: string) => void;
}

function VersionField({ label, value, versions, onVersion }: VersionFieldProps) {
  const listed = value === null || versions.includes(value) ? versions : [value, ...versions];
  return (
    <label>
      {label}{" "}
      <select aria-label={label} value={value ?? ""} onChange={(event) => onVersion(event.currentTarget.value)}>
        {listed.map((version) => (
          <option key={version} value={version}>
            {printable(version)}
          </option>
        ))}
      </select>
    </label>
  );
}

/** The steps and the lines, both at once, so that the lines stay where they are. */
function Comparison({ a, b }: { a: PlaybookDocument; b: PlaybookDocument }) {
  const before = usePlan({ name: a.name, version: a.version }, true);
  const after = usePlan({ name: b.name, version: b.version }, true);
  const changes = useMemo(() => before.data && after.data && compareSteps(before.data, after.data), [before.data, after.data]);
  const problem = before.problem || after.problem;
  if (!problem && !changes) return <p class="empty">Comparing the versions …</p>;
  return (
    <>
      {before.data && after.data && changes ? (
        <>
          <Steps a={a} b={b} changes={changes} />
          <div class="pictures">
            <Picture playbook={a} plan={before.data} states={{ removed: changes.removed, changed: changes.changed }} />
            <Picture playbook={b} plan={after.data} states={{ added: changes.added, changed: changes.changed }} />
          </div>
        </>
      ) : (
        <p class="hint">The steps cannot be compared: {problem}</p>
      )}
      <Lines a={a.source} b={b.source} />
    </>
  );
}

interface PictureProps {
  playbook: PlaybookDocument;
  plan: PlanAnswer;
  /** The steps that have a sign, by the name of the sign. */
  states: Record<string, string[]>;
}

/** The graph of a version. Steps that the other version has not, or has otherwise, carry a sign. */
function Picture({ playbook: { name, version }, plan, states }: PictureProps) {
  const marks = useMemo(
    () => new Map(Object.entries(states).flatMap(([state, steps]) => steps.map((step): [string, NodeMark] => [step, { state, words: wordOf(state) }]))),
    [plan, JSON.stringify(states)],
  );
  return (
    <section aria-label={`Graph of version ${printable(version)}`}>
      <h3>
        Version <bdi>{printable(version)}</bdi>
      </h3>
      {plan.drawing ? (
        <Drawing graph={plan.drawing} chosen={null} marks={marks} onChoose={(step) => go(playbookLink(name, ["versions", version], { step }))} />
      ) : (
        <p class="empty">{plan.drawing_problem ?? "This plan has no graph."}</p>
      )}
    </section>
  );
}

function Steps({ a, b, changes }: { a: PlaybookDocument; b: PlaybookDocument; changes: StepChanges }) {
  const { added, removed, changed } = changes;
  const linkIn = (playbook: PlaybookDocument) => (step: string) => playbookLink(playbook.name, ["versions", playbook.version], { step });
  return (
    <dl class="step-changes">
      <StepList words="Added" steps={added} link={linkIn(b)} />
      <StepList words="Removed" steps={removed} link={linkIn(a)} />
      <StepList words="Changed" steps={changed} link={linkIn(b)} />
      {!added.length && !removed.length && !changed.length && (
        <div>
          <dt>Steps</dt>
          <dd>All steps are the same.</dd>
        </div>
      )}
    </dl>
  );
}

function StepList({ words, steps, link }: { words: string; steps: string[]; link: (step: string) => string }) {
  if (!steps.length) return null;
  return (
    <div>
      <dt>
        {words} <small>{count(steps.length)}</small>
      </dt>
      <dd>
        {steps.map((step) => (
          <a key={step} href={link(step)}>
            <bdi>{printable(step)}</bdi>
          </a>
        ))}
      </dd>
    </div>
  );
}

interface Line {
  kind: "same" | "added" | "removed";
  text: string;
  /** The number of the line in the first and in the second text; 0 if it is not there. */
  numbers: [number, number];
}

/** Return the lines of both texts in order, or null if the comparison takes too long. */
function compareLines(a: string, b: string): Line[] | null {
  const parts = diffLines(a, b, { timeout: MAX_MS });
  if (!parts) return null;
  const lines: Line[] = [];
  let [before, after] = [0, 0];
  for (const { added, removed, value } of parts) {
    const texts = value.split("\n");
    if (texts[texts.length - 1] === "") texts.pop();
    for (const text of texts) {
      const kind = added ? "added" : removed ? "removed" : "same";
      lines.push({ kind, text, numbers: [added ? 0 : ++before, removed ? 0 : ++after] });
    }
  }
  return lines;
}

/** Return the lines in runs: those near a change are shown, those between are folded. */
function foldLines(lines: Line[]): { isFolded: boolean; lines: Line[] }[] {
  const near = new Array<boolean>(lines.length).fill(false);
  lines.forEach(({ kind }, place) => {
    if (kind !== "same") near.fill(true, Math.max(place - CONTEXT, 0), place + CONTEXT + 1);
  });
  const runs: { isFolded: boolean; lines: Line[] }[] = [];
  lines.forEach((line, place) => {
    const last = runs[runs.length - 1];
    if (last && last.isFolded === !near[place]) last.lines.push(line);
    else runs.push({ isFolded: !near[place], lines: [line] });
  });
  return runs.map((run) => (run.lines.length < CONTEXT ? { ...run, isFolded: false } : run));
}

const SIGNS = { same: " ", added: "+", removed: "−" };

function Lines({ a, b }: { a: string; b: string }) {
  const lines = useMemo(() => compareLines(a, b), [a, b]);
  const [open, setOpen] = useState<ReadonlySet<number>>(new Set());
  if (lines === null) return <p class="hint">The texts are too long and too different to compare their lines.</p>;
  const added = lines.filter(({ kind }) => kind === "added").length;
  const removed = lines.filter(({ kind }) => kind === "removed").length;
  if (!added && !removed) return <p class="hint">The texts are the same.</p>;
  return (
    <section>
      <h3>
        Source{" "}
        <small>
          {plural(added, "line")} added, {count(removed)} removed
        </small>
      </h3>
      <div class="lines">
        {foldLines(lines).map((run, index) =>
          run.isFolded && !open.has(index) ? (
            <button type="button" key={index} onClick={() => setOpen(new Set([...open, index]))}>
              Show {plural(run.lines.length, "equal line")}
            </button>
          ) : (
            run.lines.map(({ kind, text, numbers }) => (
              <div key={numbers.join()} class={kind}>
                <span aria-hidden="true">{numbers[0] || ""}</span>
                <span aria-hidden="true">{numbers[1] || ""}</span>
                <span>
                  {SIGNS[kind]}
                  {kind !== "same" && <span class="hidden">{kind}: </span>}
                </span>
                <bdi>{printable(text) || " "}</bdi>
              </div>
            ))
          ),
        )}
      </div>
    </section>
  );
}
