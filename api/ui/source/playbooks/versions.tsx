/** The versions of a playbook: who registered them and when, and the choice of two to compare. */

import { useState } from "preact/hooks";

import { go } from "../address";
import type { Page } from "../answers";
import { describe, useAnswer, useShared } from "../parts/context";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { query } from "../service";
import { aliasesOf, type PlaybookEntry } from "./answers";
import { playbookLink, playbookPath } from "./addresses";

export function VersionsTab({ name }: { name: string }) {
  const { service } = useShared();
  const path = `${playbookPath(name)}/versions`;
  const first = useAnswer<Page<PlaybookEntry>>(path);
  const [more, setMore] = useState<Page<PlaybookEntry>>({ items: [], next_cursor: null });
  const [problem, setProblem] = useState("");
  const [pair, setPair] = useState<{ a: string; b: string } | null>(null);
  if (!first.data) {
    return first.problem ? <p class="problem" role="alert">{first.problem}</p> : <p class="empty">Reading the versions …</p>;
  }
  const versions = [...first.data.items, ...more.items];
  const cursor = more.items.length ? more.next_cursor : first.data.next_cursor;
  const a = pair?.a ?? versions[1]?.version ?? versions[0]?.version ?? "";
  const b = pair?.b ?? versions[0]?.version ?? "";
  const load = async () => {
    try {
      const page = await service.read<Page<PlaybookEntry>>(`${path}${query({ cursor })}`);
      setMore({ items: [...more.items, ...page.items], next_cursor: page.next_cursor });
      setProblem("");
    } catch (error) {
      setProblem(describe(error));
    }
  };
  return (
    <div class="tab versions">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          go(playbookLink(name, ["diff"], { a, b }));
        }}
      >
        <p>
          <button type="submit" disabled={a === b} title={a === b ? "Choose two versions" : undefined}>
            Compare the chosen two
          </button>
        </p>
        <table>
          <thead>
            <tr>
              <th scope="col">From</th>
              <th scope="col">To</th>
              <th scope="col">Version</th>
              <th scope="col">Registered</th>
              <th scope="col">By</th>
              <th scope="col">
                <span class="hidden">Start</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {versions.map((entry) => (
              <tr key={entry.version}>
                {(["a", "b"] as const).map((side) => (
                  <td key={side}>
                    <input
                      type="radio"
                      name={side}
                      aria-label={`${side === "a" ? "From" : "To"} version ${printable(entry.version)}`}
                      checked={entry.version === (side === "a" ? a : b)}
                      onChange={() => setPair({ a, b, [side]: entry.version })}
                    />
                  </td>
                ))}
                <td>
                  <a href={playbookLink(name, ["versions", entry.version])}>
                    <bdi>{printable(entry.version)}</bdi>
                  </a>
                  {aliasesOf(entry).map((alias) => (
                    <span key={alias} class="tag" title="Alias of this version">
                      <bdi>{printable(alias)}</bdi>
                    </span>
                  ))}
                </td>
                <td>
                  <Time at={entry.registered_at} />
                </td>
                <td>
                  <bdi>{printable(entry.registered_by ?? "")}</bdi>
                </td>
                <td>
                  <a href={playbookLink(name, ["start"], { version: entry.version })} aria-label={`Start version ${printable(entry.version)}`}>
                    Start
                  </a>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </form>
      {problem && <p class="problem" role="alert">{problem}</p>}
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
