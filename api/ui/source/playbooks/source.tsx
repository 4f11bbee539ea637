/** What a trigger fires at, by its type: a schedule, requests to an address, or ends of runs. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

import { size } from "../format";
import { useShared } from "../parts/context";
import { wordOf } from "../parts/state";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { playbookLink } from "./addresses";
import type { BucketDefinition, EventDefinition, FolderDefinition, RunEndDefinition, ScheduleDefinition, TriggerDetails, WebhookDefinition } from "./answers";

/** The rows of a declaration that depend on its type. */
export function SourceRows({ trigger }: { trigger: TriggerDetails }) {
  switch (trigger.type) {
    case "webhook":
      return <WebhookRows webhook={trigger.definition as WebhookDefinition} />;
    case "run":
      return <RunEndRows end={trigger.definition as RunEndDefinition} />;
    case "folder":
      return <FolderRows folder={trigger.definition as FolderDefinition} />;
    case "s3":
      return <BucketRows bucket={trigger.definition as BucketDefinition} />;
    case "event":
      return <EventRows event={trigger.definition as EventDefinition} />;
    case "schedule":
      return <ScheduleRows trigger={trigger} schedule={trigger.definition as ScheduleDefinition} />;
    default:
      return (
        <Row name="Fires at">
          <bdi>{printable(trigger.summary)}</bdi>
        </Row>
      );
  }
}

/** Return when a trigger starts no run although it fires, in words, or "". */
export function overlapWords({ type, definition }: TriggerDetails): string {
  return type === "schedule" && (definition as ScheduleDefinition).overlap ? "unless the last run goes on" : "";
}

function Row({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function ScheduleRows({ trigger, schedule }: { trigger: TriggerDetails; schedule: ScheduleDefinition }) {
  const late = schedule.jitter_seconds ? `, up to ${schedule.jitter_seconds} s later` : "";
  return (
    <>
      <Row name="Schedule">
        <bdi>{printable(trigger.summary + late)}</bdi>
      </Row>
      <Row name={trigger.paused ? "Next, without the pause" : "Next"}>
        {trigger.firings.length ? (
          <ul>
            {trigger.firings.map(({ due_at: due }, index) => (
              <li key={index}>
                <Time at={due} />
              </li>
            ))}
          </ul>
        ) : (
          "It does not fire any more."
        )}
      </Row>
    </>
  );
}

const SCHEMES: Record<string, string> = {
  none: "none: every request is accepted",
  api_key: "an API key of NoETL",
  hmac: "a signature of the body",
};

function WebhookRows({ webhook }: { webhook: WebhookDefinition }) {
  const { service } = useShared();
  const [isCopied, setIsCopied] = useState(false);
  const address = `${location.origin}${service.root}${webhook.address}`;
  const copy = () =>
    navigator.clipboard.writeText(address).then(
      () => setIsCopied(true),
      () => undefined,
    );
  const secrets = webhook.secrets.length ? `, with ${webhook.secrets.join(", ")}` : "";
  const header = webhook.header ? `, in ${webhook.header}` : "";
  return (
    <>
      <Row name="Address">
        <code>{printable(address)}</code>{" "}
        <button type="button" onClick={() => void copy()}>
          Copy
        </button>{" "}
        <span role="status">{isCopied && "Copied"}</span>
      </Row>
      <Row name="Method">{webhook.method}</Row>
      <Row name="Proof of the sender">
        <bdi>{printable((SCHEMES[webhook.scheme] ?? `the scheme ${webhook.scheme}`) + secrets + header)}</bdi>
      </Row>
      <Row name="Answer">
        {webhook.answer === "result" ? `the result of the run, if it ends within ${webhook.wait_seconds} s` : "202 at once"}
      </Row>
      <Row name="Greatest body">{size(webhook.max_bytes)}</Row>
    </>
  );
}

function RunEndRows({ end }: { end: RunEndDefinition }) {
  return (
    <>
      <Row name="After runs of">
        <a href={playbookLink(end.awaits)}>
          <bdi>{printable(end.awaits)}</bdi>
        </a>
      </Row>
      <Row name="That end as">{end.statuses.map((status) => wordOf(status).toLowerCase()).join(", ")}</Row>
    </>
  );
}

function FolderRows({ folder }: { folder: FolderDefinition }) {
  return (
    <>
      <Row name="Folder">
        <bdi>{printable(folder.folder)}</bdi>
      </Row>
      <Row name="Files">
        <code>{printable(folder.glob)}</code>, unchanged for {folder.settle_seconds} s
      </Row>
    </>
  );
}

function BucketRows({ bucket }: { bucket: BucketDefinition }) {
  return (
    <>
      <Row name="Bucket">
        <bdi>{printable(bucket.bucket)}</bdi>
      </Row>
      <Row name="Objects">{bucket.prefix ? <code>{printable(bucket.prefix)}*</code> : "every object that is written"}</Row>
    </>
  );
}

function EventRows({ event }: { event: EventDefinition }) {
  return (
    <>
      <Row name="Events of">
        <bdi>{printable(event.source)}</bdi>
      </Row>
      <Row name="Types">
        <bdi>{printable(event.detail_types.join(", ") || "every type")}</bdi>
      </Row>
    </>
  );
}
