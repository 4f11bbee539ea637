/** The triggers of all playbooks. Each is paused and resumed here. */

import { useState } from "preact/hooks";

import { linkTo } from "../address";
import type { Page } from "../answers";
import { shortId } from "../format";
import { Action, OneOf } from "../parts/action";
import { describe, useAnswer, useShared } from "../parts/context";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { playbookLink } from "../playbooks/addresses";
import { Outcome, Trouble } from "../playbooks/outcome";
import { query } from "../service";
import type { ListedTrigger } from "./answers";

const READ_MS = 15_000;
const PAGE_SIZE = 100;

export function TriggerList() {
  const { service } = useShared();
  const first = useAnswer<Page<ListedTrigger>>(`/triggers${query({ limit: PAGE_SIZE })}`, { everyMs: READ_MS });
  const [more, setMore] = useState<Page<ListedTrigger>>({ items: [], next_cursor: null });
  const [changed, setChanged] = useState<Record<string, ListedTrigger>>({});
  const [problem, setProblem] = useState("");
  if (!first.data) return first.problem ? <Trouble words={first.problem} /> : <p key="reading" class="empty">Reading the triggers …</p>;
  const triggers = [...first.data.items, ...more.items].map((trigger) => newest(trigger, changed[keyOf(trigger)]));
  const cursor = more.items.length ? more.next_cursor : first.data.next_cursor;
  const attempt = async (act: () => Promise<void>) => {
    try {
      await act();
      setProblem("");
    } catch (error) {
      setProblem(describe(error));
    }
  };
  const change = (trigger: ListedTrigger, part: "pause" | "resume") =>
    attempt(async () => {
      const path = `/triggers/${encodeURIComponent(trigger.playbook)}/${encodeURIComponent(trigger.name)}/${part}`;
      const answer = await service.read<ListedTrigger>(path, { method: "POST" });
      setChanged((old) => ({ ...old, [keyOf(answer)]: answer }));
    });
  const load = () =>
    attempt(async () => {
      const page = await service.read<Page<ListedTrigger>>(`/triggers${query({ limit: PAGE_SIZE, cursor })}`);
      setMore({ items: [...more.items, ...page.items], next_cursor: page.next_cursor });
    });
  if (!triggers.length) {
    return (
      <p key="none" class="empty">
        No playbook has triggers. Declare them under <code>triggers</code>. <a href={linkTo(["playbooks"])}>All playbooks</a>
      </p>
    );
  }
  return (
    <div class="tab triggers" tabIndex={0} role="region" aria-label="All triggers">
      <output role="alert" class="bad">
        {printable(problem || first.problem)}
      </output>
      <table class="all">
        <thead>
          <tr>
            <th scope="col">Trigger</th>
            <th scope="col">Type</th>
            <th scope="col">Fires at</th>
            <th scope="col">Next</th>
            <th scope="col">Last</th>
            <th scope="col">Last run</th>
            <th scope="col">Change</th>
          </tr>
        </thead>
        <tbody>
          {triggers.map((trigger) => (
            <Row key={keyOf(trigger)} trigger={trigger} onChange={change} />
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

interface RowProps {
  trigger: ListedTrigger;
  onChange: (trigger: ListedTrigger, part: "pause" | "resume") => Promise<void>;
}

function Row({ trigger, onChange }: RowProps) {
  const { playbook, name, paused } = trigger;
  return (
    <tr>
      <th scope="row">
        <a href={playbookLink(playbook, ["triggers"], { trigger: name })}>
          <bdi>{printable(`${playbook}/${name}`)}</bdi>
        </a>
      </th>
      <td>{printable(trigger.type)}</td>
      <td>
        <bdi>{printable(trigger.summary)}</bdi>
      </td>
      <td>{paused ? <span class="wait">Paused</span> : <Time at={trigger.due_at} />}</td>
      <td>
        <Outcome outcome={trigger.last_outcome} by={trigger.last_by} /> <Time at={trigger.last_at} />
      </td>
      <td>{trigger.last_run && <a href={linkTo(["runs", trigger.last_run])}>{shortId(trigger.last_run)}</a>}</td>
      <td>
        <Action onAct={() => onChange(trigger, paused ? "resume" : "pause")}>
          <OneOf words={["Resume", "Pause"]} shown={paused ? "Resume" : "Pause"} /> <span class="hidden">{printable(`${playbook}/${name}`)}</span>
        </Action>
      </td>
    </tr>
  );
}

function keyOf({ playbook, name }: ListedTrigger): string {
  return `${playbook} ${name}`;
}

/** Return what was read of a trigger, or what a change has answered later. */
function newest(read: ListedTrigger, changed: ListedTrigger | undefined): ListedTrigger {
  return changed && changed.changed_at > read.changed_at ? changed : read;
}
