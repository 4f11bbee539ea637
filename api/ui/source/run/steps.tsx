/** The steps of a run as a list, for a phone: what needs attention first. */

import { go, linkTo } from "../address";
import type { RunDetails, StepReport } from "../answers";
import { count, limitWords, plural } from "../format";
import { StateSign, wordOf } from "../parts/state";
import { printable } from "../parts/value";
import type { RunHistory } from "./history";
import { leftOutWords, makeRows, type Place } from "./rows";
import { askingStep } from "./head";

const NONE: ReadonlySet<string> = new Set();

interface Props {
  run: RunDetails;
  history: RunHistory;
  names: readonly string[];
  now: number;
  onChoose: (place: Place) => void;
}

export function Steps({ run, history, names, now, onChoose }: Props) {
  const end = run.finished_at ? Date.parse(run.finished_at) : now;
  const rows = makeRows(names, run, history, NONE, end);
  const asks = askingStep(run);
  const groups: Record<string, typeof rows> = { "Needs attention": [], "At work": [], Done: [], "May still run": [], "Will not run": [] };
  for (const row of rows) groups[groupOf(row.state)]?.push(row);
  return (
    <div class="steplist">
      {Object.entries(groups).map(([title, members]) =>
        members.length ? (
          <section key={title}>
            <h2>{title === "Needs attention" ? title : `${title}, ${count(members.length)}`}</h2>
            <ul>
              {members.map((row) => (
                <li key={row.key} class={row.state}>
                  <button type="button" onClick={() => onChoose(row.place)}>
                    <StateSign state={row.state} />
                    <bdi>{printable(row.label)}</bdi>
                    <span key={row.length}>{row.spans.length ? row.length : ""}</span>
                    <small>{printable(noteOf(run.steps[row.key], row.state))}</small>
                  </button>
                  {row.key === asks && (
                    <button
                      type="button"
                      class="primary"
                      onClick={() => go(linkTo(["inbox", run.workflow_id], new URLSearchParams({ step: row.key })))}
                    >
                      Answer
                    </button>
                  )}
                </li>
              ))}
            </ul>
          </section>
        ) : null,
      )}
    </div>
  );
}

function groupOf(state: string): string {
  if (["failed", "waiting", "retrying", "asks", "join"].includes(state)) return "Needs attention";
  if (["running", "pending"].includes(state)) return "At work";
  if (state === "may") return "May still run";
  return state === "never" ? "Will not run" : "Done";
}

/** Return why a step needs attention, or what it has done, in few words. */
function noteOf(report: StepReport | undefined, state: string): string {
  if (!report) return "";
  if (report.join) return `Join, ${report.join.arrived.length} of ${report.join.arrived.length + report.join.missing.length} branches are here`;
  const { error, waiting_for: waits } = report;
  if (state === "failed" && error) return error.item ? `${error.message}, item ${count(error.item.number)} of ${count(error.item.total)}` : error.message;
  if (waits?.limit) return limitWords(waits.limit, waits.until);
  if (waits) return waits.questions?.[0]?.title ?? [...waits.actions, ...waits.workflows].join(", ");
  if (report.left_out) return leftOutWords(report.left_out);
  const loop = report.loops?.[0];
  if (loop) return `${count(loop.done)} of ${count(loop.total)} items`;
  if (report.attempt > 1) return plural(report.attempt, "attempt");
  if (report.visits > 1) return plural(report.visits, "visit");
  return state === "succeeded" ? "" : wordOf(state);
}
