/** All triggers of the tenant, the calendar of its schedules, and its backfills. */

import { linkTo, useAddress } from "../address";
import { BackfillList } from "./backfills";
import { CalendarTab } from "./calendar";
import { TriggerList } from "./list";

const TABS = { "": "All triggers", calendar: "Calendar", backfills: "Backfills" };

export function TriggersView() {
  const { parts } = useAddress();
  const tab = parts[1] ?? "";
  return (
    <main class="playbook">
      <header class="head">
        <h1>Triggers</h1>
      </header>
      <nav class="tabs" aria-label="Parts of the triggers">
        {Object.entries(TABS).map(([key, label]) => (
          <a key={key} href={linkTo(["triggers", key].filter(Boolean))} aria-current={tab === key ? "page" : undefined}>
            {label}
          </a>
        ))}
      </nav>
      {tab === "" && <TriggerList />}
      {tab === "calendar" && <CalendarTab />}
      {tab === "backfills" && <BackfillList />}
      {!(tab in TABS) && (
        <p class="empty">
          There is no such page. <a href={linkTo(["triggers"])}>All triggers</a>
        </p>
      )}
    </main>
  );
}
