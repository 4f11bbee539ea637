/** The open runs of a playbook: how many may continue in a version, why others may not, and their migration. */

import { useEffect, useRef, useState } from "preact/hooks";

import { linkTo } from "../address";
import type { BulkReport } from "../answers";
import { count, plural, shortId } from "../format";
import { Action, CertainAction } from "../parts/action";
import { describe, useShared } from "../parts/context";
import { printable } from "../parts/value";
import { JsonFields, useSwitchValues } from "../run/values";
import { query } from "../service";
import type { PlaybookDocument } from "./answers";
import { playbookPath } from "./addresses";

const SHOWN_RUNS = 5;

/** What was found so far. `request` is what was typed for it. */
interface Report {
  request: string;
  isDryRun: boolean;
  isComplete: boolean;
  accepted: number;
  skipped: BulkReport["skipped"];
}

export function FlightTab({ playbook }: { playbook: PlaybookDocument }) {
  const { service } = useShared();
  const { name, version, source } = playbook;
  const values = useSwitchValues();
  const [report, setReport] = useState<Report | null>(null);
  const [problem, setProblem] = useState("");
  const shown = useRef(new AbortController());
  useEffect(() => () => shown.current.abort(), []);
  const changes = { set: values.given, map: values.renamed };
  const isPlain = !Object.keys(changes.set).length && !Object.keys(changes.map).length;
  const request = JSON.stringify(changes);
  const current = report?.request === request ? report : null;
  const readPage = (isDryRun: boolean, cursor: string | null) => {
    const { signal } = shown.current;
    // A key that may only read can check without values and new names.
    if (isDryRun && isPlain) {
      return service.read<BulkReport>(`${playbookPath(name)}/check-runs${query({ cursor })}`, { method: "POST", body: { playbook: source }, signal });
    }
    const body = { playbook: { name, version }, ...changes, dry_run: isDryRun };
    return service.read<BulkReport>(`/workflows/bulk/migrate${query({ playbook: name, cursor })}`, { method: "POST", body, signal });
  };
  const visitAll = async (isDryRun: boolean) => {
    const found: Report = { request, isDryRun, isComplete: false, accepted: 0, skipped: [] };
    setProblem("");
    try {
      for (let cursor: string | null = null; !found.isComplete; ) {
        const page: BulkReport = await readPage(isDryRun, cursor);
        found.accepted += page.accepted;
        found.skipped = [...found.skipped, ...page.skipped];
        cursor = page.next_cursor;
        found.isComplete = cursor === null;
        setReport({ ...found });
      }
    } catch (error) {
      if (!shown.current.signal.aborted) setProblem(describe(error));
    }
  };
  const may = current?.isDryRun && current.isComplete && current.accepted > 0;
  return (
    <div class="tab flight">
      <p>
        Open runs of <bdi>{printable(name)}</bdi> that may continue in version <bdi>{printable(version)}</bdi>. A check changes nothing.
      </p>
      <div class="correction">
        <JsonFields {...values.fields} />
      </div>
      <p class="actions">
        <Action changes={!isPlain} reason={values.mistake} onAct={() => visitAll(true)}>
          Check
        </Action>
        <CertainAction
          word="Migrate them"
          certain="Migrate all that may"
          reason={values.mistake || (may ? "" : current?.isComplete && current.isDryRun ? "no run may continue" : "check first which runs may continue")}
          onAct={() => visitAll(false)}
        />
      </p>
      {problem && (
        <p class="problem" role="alert">
          {printable(problem)}
        </p>
      )}
      <div role="region" aria-label="Runs in flight" aria-live="polite">
        {values.mistake ? <p class="bad">{values.mistake}</p> : current && <Found report={current} />}
      </div>
    </div>
  );
}

function Found({ report: { accepted, skipped, isDryRun, isComplete } }: { report: Report }) {
  const words = isDryRun
    ? `${plural(accepted, "run")} may continue in this version, or ${accepted === 1 ? "has" : "have"} it already.`
    : `${plural(accepted, "run")} ${accepted === 1 ? "continues" : "continue"} in this version.`;
  return (
    <>
      <h2>{words}</h2>
      {!isComplete && <p>More runs are read …</p>}
      {skipped.length > 0 && (
        <>
          <h3>{isDryRun ? `${plural(skipped.length, "run")} may not:` : `${plural(skipped.length, "run")} stayed as before:`}</h3>
          <ul class="reasons">
            {groupReasons(skipped).map(([reason, ids]) => (
              <li key={reason}>
                <b>{count(ids.length)}</b> <bdi>{printable(reason)}</bdi>
                <p>
                  {ids.slice(0, SHOWN_RUNS).map((id) => (
                    <a key={id} href={linkTo(["runs", id])}>
                      {shortId(id)}
                    </a>
                  ))}
                  {ids.length > SHOWN_RUNS && `and ${count(ids.length - SHOWN_RUNS)} more`}
                </p>
              </li>
            ))}
          </ul>
        </>
      )}
    </>
  );
}

/** Return the ids of runs by the reason for which they may not continue, most runs first. */
function groupReasons(skipped: BulkReport["skipped"]): [reason: string, ids: string[]][] {
  const groups = new Map<string, string[]>();
  for (const { workflow_id: id, detail } of skipped) {
    const reason = detail.replace(`run ${id} `, "");
    groups.set(reason, [...(groups.get(reason) ?? []), id]);
  }
  return [...groups].sort(([, a], [, b]) => b.length - a.length);
}
