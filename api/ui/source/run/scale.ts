/** The axis of a timeline: from time to pixels, with spans in which nothing worked folded to a fixed width. */

import { duration } from "../format";
import type { Span } from "./history";

/** A span without work above this share of the run is folded. */
const IDLE_SHARE = 0.2;
export const FOLDED_WIDTH = 28;
const TICK_WIDTH = 76;
const STEPS_MS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000,
  3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000, 604_800_000, 2_592_000_000, 31_536_000_000,
];

export interface Fold {
  start: number;
  end: number;
}

export interface Scale {
  place: (time: number) => number;
  folds: Fold[];
  /** Pixels for a millisecond outside of folds. */
  density: number;
}

/** Return the spans between `start` and `end` in which nothing worked, if they are long. */
export function findIdle(spans: Iterable<Span>, start: number, end: number): Fold[] {
  const work = [...spans].filter(({ kind }) => kind === "work" || kind === "failed");
  work.sort((a, b) => a.start - b.start);
  const idle: Fold[] = [];
  let busy = start;
  for (const span of [...work, { start: end, end }]) {
    if (span.start - busy > IDLE_SHARE * (end - start)) idle.push({ start: busy, end: span.start });
    busy = Math.max(busy, span.end ?? end);
  }
  return idle;
}

export function makeScale(start: number, end: number, width: number, folds: Fold[]): Scale {
  const folded = folds.reduce((sum, fold) => sum + fold.end - fold.start, 0);
  const density = Math.max(width - FOLDED_WIDTH * folds.length, 1) / Math.max(end - start - folded, 1);
  const place = (time: number) => {
    let x = 0;
    let from = start;
    for (const fold of folds) {
      if (time <= fold.start) break;
      x += (fold.start - from) * density + FOLDED_WIDTH * Math.min((time - fold.start) / (fold.end - fold.start), 1);
      from = fold.end;
    }
    return Math.max(0, Math.min(width, x + Math.max(time - from, 0) * density));
  };
  return { place, folds, density };
}

/** Return marks of the axis with their labels. None is in a fold. */
export function ticksOf(scale: Scale, start: number, end: number): { x: number; label: string }[] {
  const step = STEPS_MS.find((size) => size * scale.density >= TICK_WIDTH) ?? Infinity;
  const ticks: { x: number; label: string }[] = [];
  const isInFold = (time: number) => scale.folds.some((fold) => time > fold.start && time < fold.end);
  let time = start + step;
  while (time < end && ticks.length < 40) {
    if (!isInFold(time)) ticks.push({ x: scale.place(time), label: `+${duration(time - start)}` });
    const fold = scale.folds.find((known) => time > known.start && time < known.end);
    time = fold ? start + Math.ceil((fold.end - start) / step) * step : time + step;
    if (fold && time <= fold.end) time += step;
  }
  return ticks;
}
