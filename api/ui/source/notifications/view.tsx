/**
 * Channels, and the notifications that were not delivered yet. What a button has done stands on one line above the
 * tables, so that no row moves.
 */

import { useState } from "preact/hooks";

import { linkTo, setParams, useAddress } from "../address";
import type { Page } from "../answers";
import { plural, shortId } from "../format";
import { Action, CertainAction, OneOf } from "../parts/action";
import { describe, useAnswer, useShared } from "../parts/context";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { playbookLink } from "../playbooks/addresses";
import { Problem, query } from "../service";
import type { ChannelEntry, NotificationEntry } from "./answers";
import { ChannelForm } from "./form";

const READ_MS = 15_000;
const PAGE_SIZE = 100;
const STATES: Record<string, string> = { pending: "Pending", held: "Held: its channel is paused", undelivered: "Undelivered" };

/** Perform a change, and show its words, or why it was refused. Return whether it was performed. */
export type Perform = (act: () => Promise<string>) => Promise<boolean>;

export function NotificationsView() {
  const { params } = useAddress();
  const wanted = params.get("state");
  const state = wanted !== null && wanted in STATES ? wanted : null;
  const channels = useAnswer<{ items: ChannelEntry[] }>("/channels", { everyMs: READ_MS });
  const path = `/notifications${query({ state, limit: PAGE_SIZE })}`;
  const first = useAnswer<Page<NotificationEntry>>(path, { everyMs: READ_MS, keeps: true });
  const [words, setWords] = useState<[text: string, isBad: boolean]>(["", false]);
  const [isAdmin, setIsAdmin] = useState(true);
  const perform: Perform = async (act) => {
    try {
      setWords([await act(), false]);
      return true;
    } catch (error) {
      if (error instanceof Problem && error.status === 403) setIsAdmin(false);
      setWords([describe(error), true]);
      return false;
    } finally {
      channels.reload();
      first.reload();
    }
  };
  const problem = channels.problem || first.problem;
  return (
    <main class="playbook">
      <header class="head">
        <h1>Notifications</h1>
      </header>
      {channels.data && first.data ? (
        <div class="tab notifications" tabIndex={0} role="region" aria-label="Channels and notifications">
          <p role="status" class={words[1] || problem ? "bad" : ""}>
            {printable(words[0] || problem)}
          </p>
          <Channels channels={channels.data.items} isAdmin={isAdmin} perform={perform} />
          <Undelivered key={path} path={path} state={state} first={first.data} perform={perform} />
        </div>
      ) : problem ? (
        <p class="problem" role="alert">
          {printable(problem)}
        </p>
      ) : (
        <p class="empty">Reading the channels …</p>
      )}
    </main>
  );
}

interface ChannelsProps {
  channels: readonly ChannelEntry[];
  isAdmin: boolean;
  perform: Perform;
}

function Channels({ channels, isAdmin, perform }: ChannelsProps) {
  const reason = isAdmin ? "" : "needs scope `admin`";
  return (
    <section aria-label="Channels">
      <h2>Channels</h2>
      {channels.length ? (
        <table class="channels">
          <thead>
            <tr>
              <th scope="col">Channel</th>
              <th scope="col">Address</th>
              <th scope="col">Events of all runs</th>
              <th scope="col">State</th>
              <th scope="col">Change</th>
            </tr>
          </thead>
          <tbody>
            {channels.map((channel) => (
              <ChannelRow key={channel.name} channel={channel} reason={reason} perform={perform} />
            ))}
          </tbody>
        </table>
      ) : (
        <p>There are no channels. An administrator adds one here, or with <code>noetl channels add</code>.</p>
      )}
      <ChannelForm reason={reason} perform={perform} />
    </section>
  );
}

function ChannelRow({ channel, reason, perform }: { channel: ChannelEntry; reason: string; perform: Perform }) {
  const { service } = useShared();
  const { name, paused } = channel;
  const path = `/channels/${encodeURIComponent(name)}`;
  const change = (part: "pause" | "resume") => () =>
    perform(async () => {
      await service.read(`${path}/${part}`, { method: "POST" });
      return `${name} was ${part}d.`;
    });
  const test = () =>
    perform(async () => {
      const { delivered, problem } = await service.read<{ delivered: boolean; problem: string | null }>(`${path}/test`, { method: "POST" });
      return delivered ? `${name} has accepted the test message.` : `${name} has not accepted the test message: ${problem ?? ""}`;
    });
  const remove = () =>
    perform(async () => {
      await service.read(path, { method: "DELETE" });
      return `${name} was removed.`;
    });
  const named = <span class="hidden"> {printable(name)}</span>;
  return (
    <tr>
      <th scope="row">
        <bdi>{printable(name)}</bdi>
      </th>
      <td>
        {printable(channel.type)}, <bdi>{printable(channel.url)}</bdi>
        {channel.signed && ", signed"}
      </td>
      <td>{channel.events.length ? channel.events.join(", ") : "only those that playbooks send to it"}</td>
      <td>
        {paused ? (
          <span class="wait">Paused{channel.paused_reason && `: ${printable(channel.paused_reason)}`}</span>
        ) : channel.retry_at ? (
          <span class="wait">
            Not reached, next attempt <Time at={channel.retry_at} />
          </span>
        ) : (
          "Active"
        )}
      </td>
      <td class="actions">
        <Action changes={false} reason={reason} onAct={change(paused ? "resume" : "pause")}>
          <OneOf words={["Resume", "Pause"]} shown={paused ? "Resume" : "Pause"} />
          {named}
        </Action>
        <Action changes={false} reason={reason} onAct={test}>
          Test{named}
        </Action>
        <CertainAction word="Remove" certain="Really remove" reason={reason} onAct={remove} />
      </td>
    </tr>
  );
}

interface UndeliveredProps {
  path: string;
  state: string | null;
  first: Page<NotificationEntry>;
  perform: Perform;
}

function Undelivered({ state, first, perform }: UndeliveredProps) {
  const { service } = useShared();
  const [more, setMore] = useState<Page<NotificationEntry>>({ items: [], next_cursor: null });
  const items = [...first.items, ...more.items];
  const cursor = more.items.length ? more.next_cursor : first.next_cursor;
  const load = () =>
    perform(async () => {
      const page = await service.read<Page<NotificationEntry>>(`/notifications${query({ state, limit: PAGE_SIZE, cursor })}`);
      setMore({ items: [...more.items, ...page.items], next_cursor: page.next_cursor });
      return "";
    });
  const forget = (id: string) => setMore((page) => ({ ...page, items: page.items.filter((entry) => entry.id !== id) }));
  return (
    <section aria-label="Notifications">
      <h2>Notifications that were not delivered</h2>
      <p>
        <label>
          State{" "}
          <select value={state ?? ""} onChange={(event) => setParams({ state: event.currentTarget.value || null }, { replace: true })}>
            <option value="">all</option>
            {Object.keys(STATES).map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </label>
      </p>
      {items.length ? (
        <table class="undelivered">
          <thead>
            <tr>
              <th scope="col">Run</th>
              <th scope="col">Event</th>
              <th scope="col">Channel</th>
              <th scope="col">State</th>
              <th scope="col">Next attempt</th>
              <th scope="col">Change</th>
            </tr>
          </thead>
          <tbody>
            {items.map((entry) => (
              <NotificationRow key={entry.id} entry={entry} perform={perform} onGone={() => forget(entry.id)} />
            ))}
          </tbody>
        </table>
      ) : (
        <p>{state === null ? "All notifications were delivered." : "No notification has this state."}</p>
      )}
      {cursor && (
        <p class="more">
          <button type="button" onClick={() => void load()}>
            Show more
          </button>
        </p>
      )}
    </section>
  );
}

function NotificationRow({ entry, perform, onGone }: { entry: NotificationEntry; perform: Perform; onGone: () => void }) {
  const { service } = useShared();
  const path = `/notifications/${encodeURIComponent(entry.id)}`;
  const run = shortId(entry.workflow_id);
  const retry = () =>
    perform(async () => {
      await service.read(`${path}/retry`, { method: "POST" });
      return `The notification of run ${run} is sent again.`;
    });
  const discard = () =>
    perform(async () => {
      await service.read(path, { method: "DELETE" });
      onGone();
      return `The notification of run ${run} was discarded.`;
    });
  return (
    <tr>
      <th scope="row">
        <a href={linkTo(["runs", entry.workflow_id])}>{run}</a> of{" "}
        <a href={playbookLink(entry.playbook)}>
          <bdi>{printable(entry.playbook)}</bdi>
        </a>
      </th>
      <td>{printable(entry.event)}</td>
      <td>
        <bdi>{printable(entry.channel)}</bdi>
      </td>
      <td>
        <span class={entry.state === "undelivered" ? "bad" : entry.state === "held" ? "wait" : ""}>{STATES[entry.state] ?? entry.state}</span>
        {entry.attempts > 0 && `, ${plural(entry.attempts, "attempt")}`}
        {entry.problem && (
          <>
            : <bdi>{printable(entry.problem)}</bdi>
          </>
        )}
      </td>
      <td>{entry.due_at ? <Time at={entry.due_at} /> : "none"}</td>
      <td class="actions">
        <Action onAct={retry}>
          Retry<span class="hidden"> the notification of {run}</span>
        </Action>
        <CertainAction word="Discard" certain="Really discard" onAct={discard} />
      </td>
    </tr>
  );
}
