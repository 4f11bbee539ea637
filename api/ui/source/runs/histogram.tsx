/** Bars of the runs of a period by state. A bar, or a range of bars, becomes the period of the list. */

import { useRef, useState } from "preact/hooks";

import type { Histogram as Answer, RunState } from "../answers";
import { clock, count } from "../format";

const HEIGHT = 44;
const WIDTH = 10;
const BAD: RunState[] = ["failed", "timed_out"];
const OPEN: RunState[] = ["running", "waiting", "queued", "paused", "completed_with_errors"];

export function Histogram({ answer, onRange }: { answer: Answer; onRange: (start: number, end: number) => void }) {
  const [range, setRange] = useState<[number, number] | null>(null);
  const svg = useRef<SVGSVGElement>(null);
  const { buckets, step_seconds: step } = answer;
  if (!buckets.length) return null;
  const sums = buckets.map(({ statuses }) => ({
    bad: sum(statuses, BAD),
    open: sum(statuses, OPEN),
    rest: sum(statuses, Object.keys(statuses) as RunState[]),
  }));
  const most = Math.max(1, ...sums.map(({ rest }) => rest));
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
  const total = sums.reduce((all, { rest }) => all + rest, 0);
  const failed = sums.reduce((all, { bad }) => all + bad, 0);
  return (
    <figure class="histogram">
      <svg
        ref={svg}
        role="img"
        aria-label={`${count(total)} runs, ${count(failed)} of them failed or timed out`}
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
        {sums.map(({ bad, open, rest }, index) => {
          const scale = (HEIGHT - 2) / most;
          const high = rest ? Math.max(rest * scale, 2) : 0;
          const low = bad ? Math.max(bad * scale, 2) : 0;
          const mid = open ? Math.max(open * scale, 2) : 0;
          const x = index * WIDTH + 1;
          return (
            <g key={buckets[index]?.start}>
              <rect class="rest" x={x} width={WIDTH - 2} y={HEIGHT - high} height={high} />
              <rect class="open" x={x} width={WIDTH - 2} y={HEIGHT - high} height={Math.min(mid, high)} />
              <rect class="bad" x={x} width={WIDTH - 2} y={HEIGHT - low} height={low} />
            </g>
          );
        })}
      </svg>
      <figcaption>
        <span>{clock(startOf(0))}</span>
        <span>{clock(startOf(buckets.length - 1) + step * 1000)}</span>
      </figcaption>
    </figure>
  );
}

function sum(statuses: Partial<Record<RunState, number>>, states: RunState[]): number {
  return states.reduce((all, state) => all + (statuses[state] ?? 0), 0);
}
