/** Bars of the runs of a period by state. A bar, or a range of bars, becomes the period of the list. */

import { useRef, useState } from "preact/hooks";

import type { Histogram as Answer, RunState } from "../answers";
import { clock, count, plural } from "../format";

const HEIGHT = 44;
const WIDTH = 10;

/** The least height of a part that has runs. */
const LEAST = 2;

/** The parts of a bar from its foot up, with the words of the legend. */
const PARTS: readonly { name: string; words: string; states: readonly RunState[] }[] = [
  { name: "bad", words: "failed or timed out", states: ["failed", "timed_out"] },
  { name: "stopped", words: "cancelled or skipped", states: ["cancelled", "skipped"] },
  { name: "rest", words: "succeeded", states: ["succeeded"] },
  { name: "open", words: "open or with errors", states: ["running", "waiting", "queued", "paused", "completed_with_errors"] },
];

export function Histogram({ answer, onRange }: { answer: Answer; onRange: (start: number, end: number) => void }) {
  const [range, setRange] = useState<[number, number] | null>(null);
  const svg = useRef<SVGSVGElement>(null);
  const { buckets, step_seconds: step } = answer;
  if (!buckets.length) return null;
  const bars = buckets.map(({ statuses }) => PARTS.map(({ states }) => add(states.map((state) => statuses[state] ?? 0))));
  const scale = (HEIGHT - LEAST) / Math.max(1, ...bars.map(add));
  const position = (event: PointerEvent) => {
    const box = (svg.current as SVGSVGElement).getBoundingClientRect();
    const index = Math.floor(((event.clientX - box.left) / box.width) * buckets.length);
    return Math.min(Math.max(index, 0), buckets.length - 1);
  };
  const startOf = (index: number) => Date.parse(buckets[index]?.start ?? "");
  const finish = () => {
    if (!range) return;
    const [first, last] = [Math.min(...range), Math.max(...range)];
    setRange(null);
    onRange(startOf(first), startOf(last) + step * 1000);
  };
  const totals = PARTS.map((_, part) => add(bars.map((bar) => bar[part] ?? 0)));
  return (
    <figure class="histogram">
      <svg
        ref={svg}
        role="img"
        aria-label={describe(totals)}
        viewBox={`0 0 ${buckets.length * WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        onPointerDown={(event) => {
          (event.currentTarget as SVGSVGElement).setPointerCapture(event.pointerId);
          setRange([position(event), position(event)]);
        }}
        onPointerMove={(event) => range && setRange([range[0], position(event)])}
        onPointerUp={finish}
        onPointerCancel={() => setRange(null)}
      >
        {range && (
          <rect
            class="range"
            x={Math.min(...range) * WIDTH}
            width={(Math.abs(range[1] - range[0]) + 1) * WIDTH}
            y="0"
            height={HEIGHT}
          />
        )}
        {bars.map((bar, index) => {
          const start = startOf(index);
          const x = index * WIDTH + 1;
          let top = HEIGHT;
          return (
            <g key={buckets[index]?.start}>
              <title>{`${clock(start)} to ${clock(start + step * 1000)}: ${describe(bar)}`}</title>
              <rect class="whole" x={x - 1} width={WIDTH} y="0" height={HEIGHT} />
              {stack(bar, scale).map((height, part) => (
                <rect key={part} class={PARTS[part]?.name} x={x} width={WIDTH - 2} y={(top -= height)} height={height} />
              ))}
            </g>
          );
        })}
      </svg>
      <figcaption>
        <span>{clock(startOf(0))}</span>
        <ul>
          {PARTS.map(({ name, words }, part) => (
            <li key={name}>
              <i class={name} /> {words} <b>{count(totals[part] ?? 0)}</b>
            </li>
          ))}
        </ul>
        <span>{clock(startOf(buckets.length - 1) + step * 1000)}</span>
      </figcaption>
    </figure>
  );
}

function add(numbers: readonly number[]): number {
  return numbers.reduce((all, number) => all + number, 0);
}

/** Return the height of each part of a bar. The greatest part gives way, so that each part with runs is seen. */
function stack(bar: readonly number[], scale: number): number[] {
  const heights = bar.map((number) => (number ? Math.max(number * scale, LEAST) : 0));
  const greatest = heights.indexOf(Math.max(...heights));
  const excess = add(heights) - add(bar) * scale;
  return heights.map((height, part) => (part === greatest && height ? Math.max(height - excess, LEAST) : height));
}

/** Return the numbers of the parts in words, such as `3 runs, 1 failed or timed out, 2 succeeded`. */
function describe(numbers: readonly number[]): string {
  const parts = PARTS.map(({ words }, part) => (numbers[part] ? `${count(numbers[part] ?? 0)} ${words}` : ""));
  return [plural(add(numbers), "run"), ...parts.filter(Boolean)].join(", ");
}
