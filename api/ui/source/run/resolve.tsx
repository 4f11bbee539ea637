/** The address of a run may be the beginning of its id, or `last`. Both lead to the run. */

import { useEffect, useState } from "preact/hooks";

import { go, linkTo, useAddress } from "../address";
import type { Page, RunEntry } from "../answers";
import { shortId } from "../format";
import { describe, useShared } from "../parts/context";
import { State } from "../parts/state";
import { printable } from "../parts/value";
import { query } from "../service";
import { RunView } from "./view";

const LAST = "last";
const COMPLETE_ID = /^[0-9a-f]{24}$/;
const SHOWN = 20;

export function FoundRun({ id }: { id: string }) {
  const { service } = useShared();
  const { parts, params, hash } = useAddress();
  const [found, setFound] = useState<RunEntry[] | null>(null);
  const [isKnown, setIsKnown] = useState(COMPLETE_ID.test(id));
  const [problem, setProblem] = useState("");
  useEffect(() => {
    if (isKnown) return;
    const control = new AbortController();
    const options = { signal: control.signal };
    const find = async () => {
      const filter = id === LAST ? { limit: 1 } : { id, limit: SHOWN };
      const { items } = await service.read<Page<RunEntry>>(`/workflows${query(filter)}`, options);
      if (items.some((run) => run.workflow_id === id)) return setIsKnown(true);
      const only = items.length === 1 ? items[0] : undefined;
      if (only) go(linkTo(["runs", only.workflow_id, ...parts.slice(2)], params, hash), { replace: true });
      else setFound(items);
    };
    find().catch((error: unknown) => {
      if (!control.signal.aborted) setProblem(describe(error));
    });
    return () => control.abort();
  }, [id]);
  if (isKnown) return <RunView id={id} />;
  return (
    <main class="run">
      {problem || found?.length === 0 ? (
        <p key="problem" class="problem" role="alert">
          {problem || (id === LAST ? "There is no run for this key." : `There is no run \`${printable(id)}\` for this key.`)}{" "}
          <a href={linkTo(["runs"])}>All runs</a>
        </p>
      ) : found ? (
        <section class="tab">
          <h1>Several runs begin with {printable(id)}</h1>
          <ul>
            {found.map((run) => (
              <li key={run.workflow_id}>
                <a href={linkTo(["runs", run.workflow_id])}>
                  <bdi>{printable(run.playbook)}</bdi> <code>{shortId(run.workflow_id)}</code>
                </a>{" "}
                <State state={run.status} />
              </li>
            ))}
          </ul>
        </section>
      ) : (
        <p key="reading" class="empty">Reading the run …</p>
      )}
    </main>
  );
}
