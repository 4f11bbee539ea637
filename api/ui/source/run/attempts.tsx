/** The attempts and visits of a step. Two attempts are compared, first the last two. */

import { useState } from "preact/hooks";

import { linkTo } from "../address";
import type { CachedReport, StepData } from "../answers";
import { count, duration, plural, shortId } from "../format";
import { StateSign } from "../parts/state";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { diffAttempts, lengthOf } from "./compare";
import type { Place } from "./rows";
import { Section } from "./section";

interface Props {
  data: StepData;
  attempt: number | null;
  onChoose: (place: Place) => void;
}

export function Attempts({ data, attempt: shown, onChoose }: Props) {
  const { attempts } = data;
  const [marked, setMarked] = useState<readonly number[] | null>(null);
  const chosen = marked ?? attempts.slice(-2).map(({ attempt }) => attempt);
  const mark = (number: number) => setMarked(chosen.includes(number) ? chosen.filter((other) => other !== number) : [...chosen, number].slice(-2));
  const canCompare = attempts.length > 1;
  return (
    <Section name="attempts" title="Attempts" note={`${plural(attempts.length, "attempt")}${data.visits > 1 ? `, ${plural(data.visits, "visit")}` : ""}`}>
      <ol class="attempts">
        {attempts.map((attempt) => (
          <li key={attempt.attempt} class={attempt.attempt === shown ? "chosen" : ""}>
            {canCompare && (
              <input
                type="checkbox"
                aria-label={`Compare attempt ${attempt.attempt}`}
                checked={chosen.includes(attempt.attempt)}
                onChange={() => mark(attempt.attempt)}
              />
            )}
            <StateSign state={attempt.error ? "failed" : attempt.finished_at ? "succeeded" : data.status} />
            <button type="button" class="link" onClick={() => onChoose({ step: data.step, visit: data.visit, attempt: attempt.attempt })}>
              {count(attempt.attempt)}
            </button>{" "}
            <Time at={attempt.started_at} /> {lengthOf(attempt)} {attempt.worker && <small>on {printable(attempt.worker)}</small>}{" "}
            {attempt.cached && <CacheMark origin={attempt.cached} />}
            {attempt.error && <span class="bad">{printable(attempt.error.message)}</span>}
          </li>
        ))}
      </ol>
      {canCompare && <Comparison data={data} chosen={chosen} />}
      {data.visits > 1 && <Visits data={data} onChoose={onChoose} />}
    </Section>
  );
}

/** Say that a result was not computed: it is that of an earlier run. */
export function CacheMark({ origin: { run, age_seconds: age } }: { origin: CachedReport }) {
  return (
    <small>
      from the cache: run <a href={linkTo(["runs", run])}>{shortId(run)}</a>, {duration(age * 1000)} before
    </small>
  );
}

function Comparison({ data, chosen }: { data: StepData; chosen: readonly number[] }) {
  const [before, after] = data.attempts.filter(({ attempt }) => chosen.includes(attempt));
  if (!before || !after) return <p class="comparison note">Mark two attempts to compare them.</p>;
  const last = data.attempts[data.attempts.length - 1];
  const resultOf = (attempt: typeof before) => (attempt === last && data.result !== null ? data.result : undefined);
  const parts = diffAttempts(before, after, [resultOf(before), resultOf(after)]);
  const isSame = !parts.some(({ title }) => title === "Input");
  return (
    <div class="comparison">
      <p class="note">
        Attempt {count(after.attempt)} against attempt {count(before.attempt)}. {isSame ? "Same input. " : ""}
        {parts.length ? "" : "No differences."}
      </p>
      {parts.map(({ title, lines }) => (
        <div key={title}>
          <h4>{title}</h4>
          <ol class="diff">
            {lines.map(({ mark, text }, index) => (
              <li key={index} class={mark === "+" ? "plus" : mark === "-" ? "minus" : ""}>
                <bdi>
                  {mark} {printable(text)}
                </bdi>
              </li>
            ))}
          </ol>
        </div>
      ))}
    </div>
  );
}

function Visits({ data, onChoose }: { data: StepData; onChoose: (place: Place) => void }) {
  const go = (visit: number) => onChoose({ step: data.step, visit });
  return (
    <p class="visits">
      <button type="button" disabled={data.visit <= 1} onClick={() => go(data.visit - 1)}>
        Previous visit
      </button>
      <label>
        Visit{" "}
        <input
          type="number"
          min="1"
          max={data.visits}
          value={data.visit}
          onChange={(event) => {
            const visit = Number(event.currentTarget.value);
            if (Number.isInteger(visit) && visit >= 1 && visit <= data.visits) go(visit);
          }}
        />{" "}
        of {count(data.visits)}
      </label>
      <button type="button" disabled={data.visit >= data.visits} onClick={() => go(data.visit + 1)}>
        Next visit
      </button>
    </p>
  );
}
