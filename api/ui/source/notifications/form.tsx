/** The form that adds or changes a channel. */

import { useState } from "preact/hooks";

import { Action } from "../parts/action";
import { useShared } from "../parts/context";
import type { Perform } from "./view";

const TYPES = { webhook: "webhook", slack: "Slack", email: "e-mail", eventbridge: "EventBridge" };
const HAS_SECRET = ["webhook", "email"];
const EVENTS = ["failed", "succeeded", "cancelled", "late"];

export function ChannelForm({ reason, perform }: { reason: string; perform: Perform }) {
  const { service } = useShared();
  const [name, setName] = useState("");
  const [type, setType] = useState("webhook");
  const [url, setUrl] = useState("");
  const [secret, setSecret] = useState("");
  const [events, setEvents] = useState<readonly string[]>([]);
  const save = async () => {
    const body = { url, type, events, ...(secret && HAS_SECRET.includes(type) ? { secret } : {}) };
    const isSaved = await perform(async () => {
      const path = `/channels/${encodeURIComponent(name)}`;
      const stored = await service.read<{ secret: string | null }>(path, { method: "PUT", body });
      return stored.secret ? `${name} was saved. The secret that signs, which is not shown again: ${stored.secret}` : `${name} was saved.`;
    });
    if (isSaved) {
      setUrl("");
      setSecret("");
    }
  };
  return (
    <details class="fire">
      <summary>Add or change a channel</summary>
      <form
        class="start-form"
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
        }}
      >
        <Field id="channel-name" label="Name" text={name} onText={setName} help="Playbooks name it under notify." />
        <div class="field">
          <label for="channel-type">Type</label>
          <select id="channel-type" value={type} onChange={(event) => setType(event.currentTarget.value)}>
            {Object.entries(TYPES).map(([value, word]) => (
              <option key={value} value={value}>
                {word}
              </option>
            ))}
          </select>
        </div>
        <Field id="channel-url" label="Address" text={url} onText={setUrl} help="Or {{ secrets.NAME }}. For EventBridge, the name of a bus. For e-mail, smtps://USER@HOST/?from=…&to=…" />
        <fieldset>
          <legend>Events of all runs</legend>
          {EVENTS.map((event) => (
            <label key={event}>
              <input
                type="checkbox"
                checked={events.includes(event)}
                onChange={({ currentTarget: { checked } }) => setEvents(checked ? [...events, event] : events.filter((known) => known !== event))}
              />
              {event}{" "}
            </label>
          ))}
        </fieldset>
        {type === "webhook" && (
          <Field id="channel-secret" label="Secret that signs" text={secret} onText={setSecret} help="If empty, one is made, and shown once." />
        )}
        {type === "email" && (
          <Field id="channel-secret" label="Password" text={secret} onText={setSecret} help="{{ secrets.NAME }}, if the address has a user." />
        )}
        <div class="actions">
          <Action changes={false} isPrimary reason={reason || (name && url ? "" : "needs a name and an address")} onAct={save}>
            Save the channel
          </Action>
        </div>
      </form>
    </details>
  );
}

interface FieldProps {
  id: string;
  label: string;
  text: string;
  help: string;
  onText: (text: string) => void;
}

function Field({ id, label, text, help, onText }: FieldProps) {
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input id={id} aria-describedby={`${id}-help`} autoComplete="off" spellcheck={false} value={text} onInput={(event) => onText(event.currentTarget.value.trim())} />
      <small id={`${id}-help`}>{help}</small>
    </div>
  );
}
