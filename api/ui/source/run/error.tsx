/** Why a visit failed: message, item, key, expression and values, and what a person can do about it. */

import { useRef, useState } from "preact/hooks";

import { linkTo } from "../address";
import { hasEnded, type ErrorRecord, type RunDetails } from "../answers";
import { count } from "../format";
import { Action } from "../parts/action";
import { ColouredText } from "../parts/ansi";
import { lazy } from "../parts/lazy";
import { LongText, printable, Value } from "../parts/value";
import { CorrectedInput } from "./correction";
import { commandOf } from "./command";
import { refusesVersions, type LiveRun } from "./live";
import { RepeatStep } from "./repeat";
import { Lines } from "./section";

const OtherVersion = lazy(async () => (await import("./version")).OtherVersion);

interface Props {
  run: RunDetails;
  step: string;
  error: ErrorRecord;
  source: string;
  act: LiveRun["act"];
  reload: LiveRun["reload"];
}

/** Return the message of an error without its item and its key, which stand next to it. */
export function reasonOf({ message, item, key }: ErrorRecord): string {
  let reason = item ? message.replace(/^item [\d,]+ of [\d,]+: /, "") : message;
  if (key && reason.startsWith(`\`${key}\`: `)) reason = reason.slice(key.length + 4);
  return reason === message ? message : reason.charAt(0).toUpperCase() + reason.slice(1);
}

export function ErrorBox({ run, step, error, source, act, reload }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [isOpen, setIsOpen] = useState(false);
  const guilty = guiltyNames(error);
  const ended = hasEnded(run.status);
  const reason = ended ? (run.status === "succeeded" ? "a run that succeeded is not resumed" : "") : "after the run ends";
  return (
    <section class="error" id="section-error" data-title="Error">
      <h3>
        <LongText text={reasonOf(error)} draw={(text) => <ColouredText text={text} />} /> <code>{error.type}</code>
      </h3>
      <dl class="pairs">
        {error.item && (
          <Pair name="Item">
            <b>{count(error.item.number)}</b> of {count(error.item.total)} <code>{printable(error.item.value)}</code>
          </Pair>
        )}
        {error.key && (
          <Pair name="Key">
            <code>{printable(error.key)}</code>
            {error.action && ` of ${error.action}`}
          </Pair>
        )}
        {error.expression && (
          <Pair name="Expression">
            <code>
              <Marked text={error.expression} names={guilty} />
            </code>
          </Pair>
        )}
        {error.values && (
          <Pair name="Values">
            {Object.entries(error.values).map(([name, value]) => (
              <code key={name} class={guilty.includes(name) ? "guilty" : ""}>
                {printable(name)} = {printable(value)}
              </code>
            ))}
          </Pair>
        )}
        {error.status !== null && <Pair name="Status">{error.status}</Pair>}
        {error.details !== null && (
          <Pair name="Details">
            <Value value={error.details} />
          </Pair>
        )}
      </dl>
      {error.line ? <Lines source={source} line={error.line} before={1} after={1} /> : null}
      <p class="actions">
        {error.line ? (
          <a class="button primary" href={linkTo(["playbooks", run.playbook, "edit"], undefined, `L${error.line}`)}>
            Open line {error.line} in editor
          </a>
        ) : null}
        <Action reason={reason} onAct={() => dialog.current?.showModal()}>
          Resume with corrected input
        </Action>
        <Action reason={refusesVersions(run)} onAct={() => setIsOpen(true)}>
          Continue with a corrected playbook
        </Action>
        <RepeatStep run={run} step={step} canSkip reload={reload} />
        <Action changes={false} onAct={() => navigator.clipboard.writeText(textOf(run, step, error))}>
          Copy
        </Action>
        <small>{reason}</small>
      </p>
      {!reason && <CorrectedInput run={run} dialog={dialog} act={act} />}
      {isOpen && <OtherVersion run={run} reload={reload} onClose={() => setIsOpen(false)} />}
    </section>
  );
}

function Pair({ name, children }: { name: string; children: preact.ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

/** Return the names to which the message points: those in it, those that are zero in a division, or the only one. */
export function guiltyNames({ message, values }: Pick<ErrorRecord, "message" | "values">): string[] {
  const names = Object.keys(values ?? {});
  const named = names.filter((name) => message.includes(`\`${name}\``) || message.includes(`'${name}'`));
  if (named.length) return named;
  if (/zero/i.test(message)) return names.filter((name) => Number(values?.[name]) === 0);
  return names.length === 1 ? names : [];
}

function Marked({ text, names }: { text: string; names: readonly string[] }) {
  const longest = [...names].sort((a, b) => b.length - a.length).map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = longest.length ? text.split(new RegExp(`(${longest.join("|")})`)) : [text];
  return (
    <>
      {parts.map((part, index) =>
        index % 2 ? (
          <mark key={index} class="guilty">
            {printable(part)}
          </mark>
        ) : (
          printable(part)
        ),
      )}
    </>
  );
}

/** Return the error as text, with the command that shows the same. */
function textOf(run: RunDetails, step: string, error: ErrorRecord): string {
  const lines = [
    `${run.playbook} ${run.workflow_id}, step ${step}`,
    `${error.type}: ${error.message}`,
    error.item ? `Item ${error.item.number} of ${error.item.total}: ${error.item.value}` : "",
    error.key ? `Key: ${error.key}` : "",
    error.expression ? `Expression: ${error.expression}` : "",
    error.values ? `Values: ${Object.entries(error.values).map(([name, value]) => `${name} = ${value}`).join(", ")}` : "",
    error.line ? `Line: ${error.line}` : "",
    "",
    commandOf(run.workflow_id, step),
  ];
  return lines.filter((line, index) => line || index === 7).join("\n");
}
