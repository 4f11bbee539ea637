/** The bars of a timeline on one canvas. Bars that are narrower than a pixel share columns, which show the worst state. */

import { duration } from "../format";
import { printable } from "../parts/value";
import type { Span, SpanKind } from "./history";
import { FOLDED_WIDTH, type Scale } from "./scale";

export const ROW = 28;
const BAR = 10;
const FAILED_WIDTH = 2;
const NARROW = 1.5;
const SEVERITY: readonly SpanKind[] = ["queued", "work", "waiting", "retry", "failed"];
const TOKENS = ["bar", "bad", "wait", "wait-tint", "accent", "ink", "ink2", "ink3", "line", "sunk", "bg"] as const;
type Colours = Record<(typeof TOKENS)[number], string>;

export interface BarRow {
  spans: readonly Span[];
  /** Times of failed items. */
  marks?: readonly number[];
  note?: string;
}

/** Return the colours of the page. In forced colours the system chooses them. */
export function readColours(element: Element): Colours {
  if (matchMedia("(forced-colors: active)").matches) {
    const forced = Object.fromEntries(TOKENS.map((name) => [name, "CanvasText"])) as Colours;
    return { ...forced, bad: "Mark", wait: "GrayText", "wait-tint": "Canvas", accent: "Highlight", sunk: "Canvas", bg: "Canvas", line: "GrayText" };
  }
  const style = getComputedStyle(element);
  return Object.fromEntries(TOKENS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()])) as Colours;
}

/** Return the context of a canvas with a size in pixels of the page. */
export function resize(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D | null {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context?.scale(ratio, ratio);
  return context;
}

/** Draw rows below each other. `end` is the end of spans that go on. */
export function drawBars(canvas: HTMLCanvasElement, rows: readonly BarRow[], width: number, scale: Scale, end: number): void {
  const context = resize(canvas, width, rows.length * ROW);
  if (!context) return;
  const colours = readColours(canvas);
  for (const fold of scale.folds) {
    context.fillStyle = colours.sunk;
    context.fillRect(scale.place(fold.start), 0, FOLDED_WIDTH, rows.length * ROW);
  }
  rows.forEach((row, index) => new RowPainter(context, colours, scale, end, index * ROW + ROW / 2, width).paint(row));
}

class RowPainter {
  constructor(
    private readonly context: CanvasRenderingContext2D,
    private readonly colours: Colours,
    private readonly scale: Scale,
    private readonly end: number,
    private readonly y: number,
    private readonly width: number,
  ) {}

  paint({ spans, marks = [], note }: BarRow): void {
    const columns = new Int8Array(Math.ceil(this.width) + 1);
    let last = 0;
    for (const span of spans) {
      const from = this.scale.place(span.start);
      const to = this.scale.place(span.end ?? this.end);
      last = Math.max(last, to);
      if (to - from < NARROW && span.end !== null) this.mark(columns, span.kind, from, to);
      else this.span(span, from, to);
    }
    this.paintColumns(columns);
    this.context.fillStyle = this.colours.bad;
    for (const time of marks) this.context.fillRect(this.scale.place(time) - 1, this.y - 7, 2, 14);
    if (note) this.paintNote(note, last);
  }

  private mark(columns: Int8Array, kind: SpanKind, from: number, to: number): void {
    const severity = SEVERITY.indexOf(kind) + 1;
    const first = Math.floor(from);
    const final = Math.min(Math.max(Math.ceil(to), first + (kind === "failed" ? 3 : 2)), columns.length);
    for (let x = first; x < final; x += 1) if ((columns[x] as number) < severity) columns[x] = severity;
  }

  private paintColumns(columns: Int8Array): void {
    for (let x = 0; x < columns.length; ) {
      const severity = columns[x] as number;
      let end = x + 1;
      while (end < columns.length && columns[end] === severity) end += 1;
      const kind = SEVERITY[severity - 1];
      if (kind === "queued") this.line(x, end, this.colours.ink3, [1.5, 2.5]);
      else if (kind === "retry") this.line(x, end, this.colours.bad, []);
      else if (kind) this.block(x, end - x, kind === "work" ? this.colours.bar : kind === "failed" ? this.colours.bad : this.colours.wait);
      x = end;
    }
  }

  private span({ kind, end }: Span, from: number, to: number): void {
    const isLive = end === null;
    const width = Math.max(to - from, 2);
    if (kind === "queued") this.line(from, to, this.colours.ink3, [1.5, 2.5]);
    else if (kind === "retry") this.line(from, to, this.colours.bad, []);
    else if (kind === "waiting") this.hatch(from, width);
    else this.block(from, width, kind === "failed" ? this.colours.bad : isLive ? this.colours.accent : this.colours.bar);
    if (kind === "failed" || isLive) {
      this.context.fillStyle = kind === "failed" ? this.colours.bad : kind === "waiting" ? this.colours.wait : this.colours.accent;
      if (kind !== "queued") this.context.fillRect(from + width - FAILED_WIDTH, this.y - 8, FAILED_WIDTH, 16);
    }
  }

  private block(x: number, width: number, colour: string): void {
    this.context.fillStyle = colour;
    this.context.fillRect(x, this.y - BAR / 2, width, BAR);
  }

  private line(from: number, to: number, colour: string, dash: number[]): void {
    const { context } = this;
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(from, this.y);
    context.lineTo(to, this.y);
    context.stroke();
    context.setLineDash([]);
  }

  private hatch(x: number, width: number): void {
    const { context, y } = this;
    context.save();
    context.beginPath();
    context.rect(x, y - BAR / 2, width, BAR);
    context.clip();
    context.fillStyle = this.colours["wait-tint"];
    context.fillRect(x, y - BAR / 2, width, BAR);
    context.strokeStyle = this.colours.wait;
    context.lineWidth = 0.8;
    context.globalAlpha = 0.55;
    context.beginPath();
    for (let place = x - BAR; place < x + width; place += 5) {
      context.moveTo(place, y + BAR / 2);
      context.lineTo(place + BAR, y - BAR / 2);
    }
    context.stroke();
    context.restore();
    context.strokeStyle = this.colours.wait;
    context.lineWidth = 1;
    context.strokeRect(x + 0.5, y - BAR / 2 + 0.5, Math.max(width - 1, 1), BAR - 1);
  }

  /** Write a note after the last bar, or before the first one if there is no space after it. */
  private paintNote(note: string, last: number): void {
    const { context } = this;
    context.font = "11px Inter, system-ui, sans-serif";
    context.fillStyle = this.colours.ink2;
    const space = this.width - last - 12;
    if (space < 40) return;
    context.fillText(cut(context, printable(note), space), last + 8, this.y + 4);
  }
}

function cut(context: CanvasRenderingContext2D, text: string, space: number): string {
  let shown = text.slice(0, 120);
  if (shown === text && context.measureText(shown).width <= space) return shown;
  while (shown && context.measureText(`${shown}…`).width > space) shown = shown.slice(0, -1);
  return `${shown}…`;
}

/** Draw the axis: the start, marks, folds with their lengths, and the end. */
export function drawAxis(
  canvas: HTMLCanvasElement,
  width: number,
  scale: Scale,
  words: { start: string; end: string; ticks: { x: number; label: string }[] },
): void {
  const context = resize(canvas, width, ROW);
  if (!context) return;
  const colours = readColours(canvas);
  context.font = "11px Inter, system-ui, sans-serif";
  context.fillStyle = colours.ink2;
  const taken: [number, number][] = [];
  const write = (text: string, middle: number, y: number) => {
    const size = context.measureText(text).width;
    const left = Math.max(0, Math.min(width - size, middle - size / 2));
    if (y === 18 && taken.some(([from, to]) => left < to + 8 && left + size > from - 8)) return;
    taken.push([left, left + size]);
    context.fillText(text, left, y);
  };
  for (const fold of scale.folds) {
    const middle = scale.place(fold.start) + FOLDED_WIDTH / 2;
    write(duration(fold.end - fold.start), middle, 12);
    write("no work", middle, 24);
  }
  write(words.end, width, 18);
  write(words.start, 0, 18);
  for (const { x, label } of words.ticks) write(label, x, 18);
}
