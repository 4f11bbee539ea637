/** All triggers of the tenant, and the calendar of its schedules. */

import { linkTo, useAddress } from "../address";
import { CalendarTab } from "./calendar";
import { TriggerList } from "./list";

const TABS = { "": "All triggers", calendar: "Calendar" };

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
      {!(tab in TABS) && (
        <p class="empty">
          There is no such page. <a href={linkTo(["triggers"])}>All triggers</a>
        </p>
      )}
    </main>
  );
}
