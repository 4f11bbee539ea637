/** A run that a step has started, drawn below the step. One is open at a time. Those that it has started are links. */

import { useEffect, useMemo, useRef } from "preact/hooks";

import { go, linkTo, setParams } from "../address";
import type { DrawnGraph, GraphNode, RunDetails, StepData } from "../answers";
import type { Inner } from "../drawing/panel";
import { makeSpace } from "../drawing/space";
import { shortId } from "../format";
import { useShared } from "../parts/context";
import { printable } from "../parts/value";
import { query } from "../service";
import { useRun } from "./live";

const SCALE = 0.85;
const MAX_WIDTH = 1400;
const MAX_HEIGHT = 1000;

export interface SubRun {
  step: string;
  id: string;
}

/** Return the sub-run of the address, such as `?sub=STEP/ID`. */
export function subRunOf(text: string | null): SubRun | null {
  const place = text?.lastIndexOf("/") ?? -1;
  return text === null || place < 1 ? null : { step: text.slice(0, place), id: text.slice(place + 1) };
}

/** Open a sub-run in the graph. Null closes it. */
export function openSubRun(sub: SubRun | null): void {
  setParams({ sub: sub && `${sub.step}/${sub.id}` }, { replace: true });
}

/** Return a function that opens or closes the sub-run of a step: the newest that has not succeeded, else the newest. */
export function useOpener(run: RunDetails, sub: SubRun | null, onNone: (step: string) => void): (step: string) => Promise<void> {
  const { service } = useShared();
  return async (step) => {
    if (sub?.step === step) return openSubRun(null);
    const path = `/workflows/${run.workflow_id}/step${query({ name: step })}`;
    const children = (await service.read<StepData>(path).catch(() => null))?.child_runs ?? [];
    const chosen = children.find(({ status }) => status !== "succeeded") ?? children[0];
    if (chosen) openSubRun({ step, id: chosen.workflow_id });
    else onNone(step);
  };
}

export interface Followed {
  id: string;
  run: RunDetails | null;
  problem: string;
}

/** Follow a sub-run. It draws nothing itself. */
export function FollowedRun({ id, onChange }: { id: string; onChange: (followed: Followed) => void }) {
  const { run, problem } = useRun(id, "[]");
  useEffect(() => onChange({ id, run, problem }), [run, problem]);
  return null;
}

/** Return what is drawn of a sub-run, and its words. `childGraph` is its drawing if it has one. */
export function useInner(graph: DrawnGraph, sub: SubRun | null, followed: Followed | null, childGraph: DrawnGraph): { inner: Inner | null; words: string } {
  const known = useRef(new Map<string, GraphNode>());
  const child = sub !== null && followed?.id === sub.id ? followed : null;
  const drawn = child?.run?.graph && childGraph;
  const space = useMemo(() => {
    if (!sub || !drawn) return null;
    const scale = Math.min(SCALE, MAX_WIDTH / drawn.width, MAX_HEIGHT / drawn.height);
    const found = makeSpace(graph, sub.step, { width: drawn.width * scale, height: drawn.height * scale }, known.current);
    return found && { ...found, scale };
  }, [graph, drawn?.width, drawn?.height, sub?.step]);
  const latest = useRef(sub);
  latest.current = sub;
  const onChoose = useMemo(() => (node: GraphNode) => go(linkTo(["runs", latest.current?.id ?? ""], new URLSearchParams({ step: node.steps[0] ?? "" }))), []);
  if (!sub) return { inner: null, words: "" };
  const name = child?.run ? `${printable(child.run.playbook)} ${shortId(sub.id)}` : shortId(sub.id);
  if (drawn && space) return { inner: { graph: drawn, space, onChoose, label: `Sub-run ${name}` }, words: name };
  return { inner: null, words: `${name}: ${child?.problem || child?.run?.graph_problem || (drawn ? "its step is folded" : "reading …")}` };
}
