/** The backfills of all triggers: their progress, and what a person does with them. */

import { useState } from "preact/hooks";

import { linkTo } from "../address";
import type { Page } from "../answers";
import { plural, shortId } from "../format";
import { Action, CertainAction, OneOf } from "../parts/action";
import { describe, useAnswer, useShared } from "../parts/context";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { playbookLink } from "../playbooks/addresses";
import { Trouble } from "../playbooks/outcome";
import { query } from "../service";
import type { BackfillEntry } from "./answers";

const READ_MS = 5_000;
const PAGE_SIZE = 50;
const STATES: Record<string, [word: string, style: string]> = {
  running: ["Running", ""],
  paused: ["Paused", "wait"],
  succeeded: ["Succeeded", ""],
  failed: ["Failed", "bad"],
  cancelled: ["Cancelled", ""],
};

type Perform = (act: () => Promise<string>) => Promise<void>;

export function BackfillList() {
  const { service } = useShared();
  const first = useAnswer<Page<BackfillEntry>>(`/backfills${query({ limit: PAGE_SIZE })}`, { everyMs: READ_MS });
  const [more, setMore] = useState<Page<BackfillEntry>>({ items: [], next_cursor: null });
  const [words, setWords] = useState<[text: string, isBad: boolean]>(["", false]);
  if (!first.data) return first.problem ? <Trouble words={first.problem} /> : <p class="empty">Reading the backfills …</p>;
  const known = new Set(first.data.items.map(({ id }) => id));
  const backfills = [...first.data.items, ...more.items.filter(({ id }) => !known.has(id))];
  const cursor = more.items.length ? more.next_cursor : first.data.next_cursor;
  const perform: Perform = async (act) => {
    try {
      setWords([await act(), false]);
    } catch (error) {
      setWords([describe(error), true]);
    }
    first.reload();
  };
  const load = () =>
    perform(async () => {
      const page = await service.read<Page<BackfillEntry>>(`/backfills${query({ limit: PAGE_SIZE, cursor })}`);
      setMore({ items: [...more.items, ...page.items], next_cursor: page.next_cursor });
      return "";
    });
  const update = (entry: BackfillEntry) => setMore((page) => ({ ...page, items: page.items.map((old) => (old.id === entry.id ? entry : old)) }));
  if (!backfills.length) {
    return (
      <p key="none" class="empty">
        There are no backfills. <code>noetl backfills start</code> starts runs of a trigger for past times, or for a list.
      </p>
    );
  }
  return (
    <div class="tab notifications" tabIndex={0} role="region" aria-label="Backfills">
      <p role="status" class={words[1] || first.problem ? "bad" : ""}>
        {printable(words[0] || first.problem)}
      </p>
      <table class="backfills">
        <thead>
          <tr>
            <th scope="col">Backfill</th>
            <th scope="col">Partitions</th>
            <th scope="col">Progress</th>
            <th scope="col">Started</th>
            <th scope="col">Failed runs</th>
            <th scope="col">Change</th>
          </tr>
        </thead>
        <tbody>
          {backfills.map((entry) => (
            <Row key={entry.id} entry={entry} perform={perform} onChange={update} />
          ))}
        </tbody>
      </table>
      {cursor && (
        <p class="more">
          <button type="button" onClick={() => void load()}>
            Show more
          </button>
        </p>
      )}
    </div>
  );
}

function Row({ entry, perform, onChange }: { entry: BackfillEntry; perform: Perform; onChange: (entry: BackfillEntry) => void }) {
  const { id, playbook, trigger, state, counts, partitions } = entry;
  const [word, style] = STATES[state] ?? [state, ""];
  return (
    <tr>
      <th scope="row">
        <a href={linkTo(["runs"], new URLSearchParams({ tag: `backfill=${id}` }))}>{shortId(id)}</a> of{" "}
        <a href={playbookLink(playbook, ["triggers"], { trigger })}>
          <bdi>{printable(`${playbook}/${trigger}`)}</bdi>
        </a>
      </th>
      <td>
        {partitions}
        {entry.start_at && (
          <>
            , from <Time at={entry.start_at} /> to <Time at={entry.end_at} />
          </>
        )}
      </td>
      <td>
        <div>
          <span class={style}>{word}</span>
          {entry.reason && `: ${printable(entry.reason)}`}
        </div>
        <progress max={partitions || 1} value={counts.passed} aria-label="Partitions that it has reached" />
        <div class="numbers">{`${counts.passed} reached, ${numbers(entry)}`}</div>
      </td>
      <td>
        <Time at={entry.created_at} />
      </td>
      <td>
        {entry.failures.map((run) => (
          <div key={run.workflow_id}>
            <a href={linkTo(["runs", run.workflow_id])}>
              <bdi>{printable(run.partition)}</bdi>
            </a>
          </div>
        ))}
      </td>
      <td class="actions">
        <Changes entry={entry} perform={perform} onChange={onChange} />
      </td>
    </tr>
  );
}

/** Return the numbers of partitions that are not zero, as words. */
function numbers({ counts, open }: BackfillEntry): string {
  const { succeeded, failed, skipped, filtered, rejected } = counts;
  const shown = { open: open.length, succeeded, failed, skipped, filtered, rejected };
  return Object.entries(shown)
    .filter(([name, count]) => count > 0 || name === "succeeded")
    .map(([name, count]) => `${count} ${name}`)
    .join(", ");
}

function Changes({ entry, perform, onChange }: { entry: BackfillEntry; perform: Perform; onChange: (entry: BackfillEntry) => void }) {
  const { service } = useShared();
  const { id, state, counts } = entry;
  const change = (part: string, words: string) => () =>
    perform(async () => {
      onChange(await service.read<BackfillEntry>(`/backfills/${encodeURIComponent(id)}/${part}`, { method: "POST" }));
      return `Backfill ${shortId(id)} ${words}.`;
    });
  const named = <span class="hidden"> {shortId(id)}</span>;
  const isPaused = state === "paused";
  if (isPaused || state === "running") {
    return (
      <>
        <Action onAct={isPaused ? change("resume", "was resumed") : change("pause", "was paused")}>
          <OneOf words={["Resume", "Pause"]} shown={isPaused ? "Resume" : "Pause"} />
          {named}
        </Action>
        <CertainAction word="Cancel" certain="Really cancel" onAct={change("cancel", "was cancelled")} />
      </>
    );
  }
  if (!counts.failed || state === "cancelled") return <>none</>;
  return (
    <Action onAct={change("retry", `retries ${plural(counts.failed, "run")}`)}>
      Retry
      {named}
    </Action>
  );
}
