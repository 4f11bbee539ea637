/** One playbook: its graph, findings and inputs, its source, versions and statistics. */

import { linkTo, useAddress } from "../address";
import { useKeys } from "../parts/keys";
import { lazy } from "../parts/lazy";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { Source } from "../run/tabs";
import { aliasesOf, type PlaybookDocument } from "./answers";
import { playbookLink } from "./addresses";
import { RegistryView } from "./list";
import { usePlaybook, type Read } from "./loading";
import { PlanPanels } from "./plan";
import { StartView } from "./start";
import { StatisticsTab } from "./statistics";
import { VersionsTab } from "./versions";

const DiffTab = lazy(async () => (await import("./diff")).DiffTab);
const FlightTab = lazy(async () => (await import("./flight")).FlightTab);
const TriggersTab = lazy(async () => (await import("./triggers")).TriggersTab);

const TABS = {
  "": "Graph",
  source: "Source",
  flight: "Runs in flight",
  triggers: "Triggers",
  versions: "Versions",
  statistics: "Statistics",
};
const VERSION_TABS = 3;

export function PlaybooksView() {
  const { parts, params } = useAddress();
  const [, name, view = "", ...rest] = parts;
  if (!name) return <RegistryView />;
  if (view === "start") {
    const [version, run] = [params.get("version"), params.get("from")];
    return <StartView key={`${name} ${version} ${run}`} name={name} version={version} run={run} />;
  }
  const isVersion = view === "versions" && rest.length > 0;
  const version = isVersion ? (rest[0] as string) : null;
  return <Playbook key={`${name} ${version}`} name={name} version={version} tab={isVersion ? (rest[1] ?? "") : view} />;
}

/** Return the command that starts a run. A name may have any character, so it is quoted for the shell. */
function startCommand(name: string, version: string | null): string {
  const reference = version === null ? name : `${name}@${version}`;
  return `noetl submit '${reference.replaceAll("'", "'\\''")}' --url ${location.origin}`;
}

interface Props {
  name: string;
  /** The version of the address; null is the newest. */
  version: string | null;
  tab: string;
}

function Playbook({ name, version, tab }: Props) {
  const read = usePlaybook(name, version);
  const shown = tab === "graph" ? "" : tab;
  useKeys({
    c: () => void navigator.clipboard.writeText(location.href),
    y: () => void navigator.clipboard.writeText(startCommand(name, version)),
  });
  if (!read.data) {
    return (
      <main class="playbook">
        {read.problem ? <Missing name={name} version={version} read={read} /> : <p class="empty">Reading the playbook …</p>}
      </main>
    );
  }
  const base = version === null ? [] : ["versions", version];
  const tabs = version === null ? Object.entries(TABS) : Object.entries(TABS).slice(0, VERSION_TABS);
  return (
    <main class="playbook">
      <PlaybookHead playbook={read.data} version={version} read={read} />
      <nav class="tabs" aria-label="Parts of the playbook">
        {tabs.map(([key, label]) => (
          <a key={key} href={playbookLink(name, [...base, key].filter(Boolean))} aria-current={shown === key ? "page" : undefined}>
            {label}
          </a>
        ))}
        {version === null ? (
          <a href={linkTo(["runs"], new URLSearchParams({ playbook: name, since: "all" }))}>Runs</a>
        ) : (
          <a href={playbookLink(name, ["versions"])}>All versions</a>
        )}
      </nav>
      <Tab name={name} tab={shown} playbook={read.data} />
    </main>
  );
}

function Tab({ name, tab, playbook }: { name: string; tab: string; playbook: PlaybookDocument }) {
  switch (tab) {
    case "":
      return <PlanPanels playbook={playbook} />;
    case "source":
      return <Source text={playbook.source} />;
    case "flight":
      return <FlightTab playbook={playbook} />;
    case "triggers":
      return <TriggersTab name={name} />;
    case "versions":
      return <VersionsTab name={name} />;
    case "statistics":
      return <StatisticsTab name={name} />;
    case "diff":
      return <DiffTab name={name} />;
    default:
      return (
        <p class="empty">
          There is no such page. <a href={playbookLink(name)}>The playbook</a>
        </p>
      );
  }
}

function Missing({ name, version, read }: { name: string; version: string | null; read: Read<unknown> }) {
  return (
    <>
      <p class="problem" role="alert">
        {read.status === 404 ? (
          <>
            The registry has no {version !== null && <>version <bdi>{printable(version)}</bdi> of a </>}playbook{" "}
            <bdi>{printable(name)}</bdi>.
          </>
        ) : (
          read.problem
        )}
      </p>
      <p class="empty">
        {version !== null && (
          <>
            <a href={playbookLink(name, ["versions"])}>Its versions</a>
            {" · "}
          </>
        )}
        <a href={linkTo(["playbooks"])}>All playbooks</a>
      </p>
    </>
  );
}

interface HeadProps {
  playbook: PlaybookDocument;
  version: string | null;
  read: Read<PlaybookDocument>;
}

function PlaybookHead({ playbook, version, read }: HeadProps) {
  const { name } = playbook;
  const isRemoved = read.status === 404;
  const removed = version === null ? "This playbook is not in the registry any more." : "This version is not in the registry any more.";
  return (
    <header class="head">
      <nav class="trail" aria-label="Place">
        <a href={linkTo(["playbooks"])}>Playbooks</a>
        <span aria-hidden="true">›</span>
        <a href={playbookLink(name)}>
          <bdi>{printable(name)}</bdi>
        </a>
      </nav>
      <div class="title">
        <h1>
          <bdi>{printable(name)}</bdi>
        </h1>
        <span class="tag" title="Version">
          <bdi>{printable(playbook.version)}</bdi>
        </span>
        {aliasesOf(playbook).map((alias) => (
          <span key={alias} class="tag" title="Alias of this version">
            <bdi>{printable(alias)}</bdi>
          </span>
        ))}
        <div class="actions">
          <a class="button" href={playbookLink(name, ["edit"])}>
            Edit
          </a>
          {isRemoved ? (
            <button type="button" class="primary" disabled title={removed}>
              Start
            </button>
          ) : (
            <a class="button primary" href={playbookLink(name, ["start"], { version })}>
              Start
            </a>
          )}
        </div>
      </div>
      <p class="facts">
        <span>
          Registered <Time at={playbook.registered_at} />
        </span>
        {playbook.registered_by && (
          <span>
            by <bdi>{printable(playbook.registered_by)}</bdi>
          </span>
        )}
        <span>{version === null ? "The newest version" : "This version"}</span>
        {playbook.version !== playbook.live_version && (
          <span>
            Live is{" "}
            <a href={playbookLink(name, ["versions", playbook.live_version])}>
              <bdi>{printable(playbook.live_version)}</bdi>
            </a>
            , pinned
          </span>
        )}
      </p>
      <p class={read.problem ? "headline problem" : "headline"} role={read.problem ? "alert" : undefined}>
        {isRemoved ? removed : read.problem}
      </p>
    </header>
  );
}
