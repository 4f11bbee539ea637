/**
 * A calendar of schedules: a month or a week with the firings that were performed, and those to come. Each has a link
 * to its run or its trigger. A phone shows a list of days. The table has the same size whatever its firings are.
 */

import { useRef, useState } from "preact/hooks";

import { linkTo, setParams, useAddress } from "../address";
import { count, plural, shortId, utc } from "../format";
import { describe, useAnswer, useShared } from "../parts/context";
import { StateSign } from "../parts/state";
import { Time } from "../parts/times";
import { printable } from "../parts/value";
import { useWidth } from "../parts/width";
import { playbookLink } from "../playbooks/addresses";
import { query } from "../service";
import type { CalendarPage, CalendarTrigger } from "./answers";
import {
  addDays, addMonths, boundsOf, BROWSER_ZONE, clockOf, dayInWords, isDay, mondayOf, monthInWords, weekday, weekNumber, weekOf, weeksOfMonth, type Day,
} from "./days";
import { entriesByDay, linesOf, type Entry, type Line } from "./entries";

const READ_MS = 30_000;
const LINES = { month: 4, week: 16 };

type Span = keyof typeof LINES;
const STEPS: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -7, ArrowDown: 7 };

export function CalendarTab() {
  const { params } = useAddress();
  const width = useWidth();
  const asked = params.get("zone") ?? BROWSER_ZONE;
  const zone = clockOf(asked) ? asked : BROWSER_ZONE;
  const clock = clockOf(zone) as NonNullable<ReturnType<typeof clockOf>>;
  const today = clock(Date.now()).day;
  const date = params.get("date");
  const anchor = isDay(date) ? date : today;
  const span: Span = params.get("view") === "week" ? "week" : "month";
  const weeks = span === "week" ? [weekOf(mondayOf(anchor))] : weeksOfMonth(anchor);
  const { triggers, problem, isRead, more } = useCalendar(weeks.flat());
  const days = entriesByDay(triggers, clock);
  const move = (number: number) =>
    setParams({ date: number === 0 ? null : span === "week" ? addDays(anchor, 7 * number) : addMonths(anchor, number), day: null }, { replace: true });
  const day = params.get("day");
  const shown = weeks.flat().filter((other) => span === "week" || other.slice(0, 7) === anchor.slice(0, 7));
  return (
    <div class="tab calendar" tabIndex={0} role="region" aria-label="Calendar">
      <Toolbar title={span === "week" ? `Week of ${dayInWords(mondayOf(anchor))}` : monthInWords(anchor)} span={span} zone={zone} triggers={triggers} onMove={move} />
      {width === "phone" ? (
        <Agenda days={shown} entries={days} isRead={isRead} />
      ) : (
        <Grid weeks={weeks} entries={days} today={today} month={span === "month" ? anchor.slice(0, 7) : ""} limit={LINES[span]} zone={zone} onMove={move} />
      )}
      {problem && (
        <p class="problem" role="alert">
          {printable(problem)}
        </p>
      )}
      {width !== "phone" && isDay(day) && (
        <section aria-label={dayInWords(day)}>
          <h2>{dayInWords(day)}</h2>
          {days.get(day) ? <Firings days={[day]} entries={days} /> : <p>{isRead ? "Nothing fires on this day." : "Reading the calendar …"}</p>}
        </section>
      )}
      <Schedules triggers={triggers} isRead={isRead} more={more} />
    </div>
  );
}

interface ReadCalendar {
  triggers: CalendarTrigger[];
  problem: string;
  isRead: boolean;
  /** Read the next page of schedules; null if there is none. */
  more: (() => Promise<void>) | null;
}

function useCalendar(days: readonly Day[]): ReadCalendar {
  const { service } = useShared();
  const { params } = useAddress();
  const filter = { ...boundsOf(days), playbook: params.get("playbook"), trigger: params.get("trigger") };
  const path = `/triggers/calendar${query(filter)}`;
  const first = useAnswer<CalendarPage>(path, { everyMs: READ_MS, keeps: true });
  const [rest, setRest] = useState<{ path: string; items: CalendarTrigger[]; cursor: string | null } | null>(null);
  const [problem, setProblem] = useState("");
  const further = rest?.path === path ? rest : null;
  const cursor = further ? further.cursor : (first.data?.next_cursor ?? null);
  const more = async () => {
    try {
      const page = await service.read<CalendarPage>(`/triggers/calendar${query({ ...filter, cursor })}`);
      setRest({ path, items: [...(further?.items ?? []), ...page.items], cursor: page.next_cursor });
      setProblem("");
    } catch (error) {
      setProblem(describe(error));
    }
  };
  return {
    triggers: [...(first.data?.items ?? []), ...(further?.items ?? [])],
    problem: problem || first.problem,
    isRead: first.data !== null && Date.parse(first.data.since) === Date.parse(filter.since),
    more: cursor === null ? null : more,
  };
}

interface ToolbarProps {
  title: string;
  span: Span;
  zone: string;
  triggers: readonly CalendarTrigger[];
  onMove: (number: number) => void;
}

function Toolbar({ title, span, zone, triggers, onMove }: ToolbarProps) {
  const { params } = useAddress();
  const zones = new Set([BROWSER_ZONE, "UTC", ...triggers.map(({ timezone }) => timezone), zone]);
  const playbook = params.get("playbook");
  return (
    <div class="actions toolbar">
      <h2 aria-live="polite">{title}</h2>
      <button type="button" onClick={() => onMove(-1)}>
        Previous
      </button>
      <button type="button" onClick={() => onMove(0)}>
        Today
      </button>
      <button type="button" onClick={() => onMove(1)}>
        Next
      </button>
      <span role="group" aria-label="Length">
        {(["month", "week"] as const).map((name) => (
          <button key={name} type="button" aria-pressed={span === name} onClick={() => setParams({ view: name === "week" ? name : null }, { replace: true })}>
            {name === "week" ? "Week" : "Month"}
          </button>
        ))}
      </span>
      <label>
        Times of{" "}
        <select value={zone} onChange={(event) => setParams({ zone: event.currentTarget.value === BROWSER_ZONE ? null : event.currentTarget.value }, { replace: true })}>
          {[...zones].map((name) => (
            <option key={name} value={name}>
              {name === BROWSER_ZONE ? `this browser, ${name}` : name}
            </option>
          ))}
        </select>
      </label>
      {playbook !== null && (
        <span>
          Only <bdi>{printable([playbook, params.get("trigger")].filter(Boolean).join("/"))}</bdi>.{" "}
          <a href={linkTo(["triggers", "calendar"])}>All schedules</a>
        </span>
      )}
    </div>
  );
}

interface GridProps {
  weeks: Day[][];
  entries: Map<Day, Entry[]>;
  today: Day;
  month: string;
  limit: number;
  zone: string;
  onMove: (number: number) => void;
}

function Grid({ weeks, entries, today, month, limit, zone, onMove }: GridProps) {
  const table = useRef<HTMLTableElement>(null);
  const press = (event: KeyboardEvent) => {
    const links = [...(table.current?.querySelectorAll<HTMLAnchorElement>("a.date") ?? [])];
    const index = links.indexOf(event.target as HTMLAnchorElement);
    const step = STEPS[event.key];
    if (index < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "PageUp" || event.key === "PageDown") onMove(event.key === "PageUp" ? -1 : 1);
    else if (step !== undefined) links[index + step]?.focus();
    else return;
    event.preventDefault();
  };
  return (
    <table ref={table} class={month ? "month" : "week"} onKeyDown={press}>
      <caption class="hidden">Firings, with times of {zone}. Arrow keys move between days.</caption>
      <thead>
        <tr>
          <th scope="col">Week</th>
          {weeks[0]?.map((day) => (
            <th key={weekday(day)} scope="col">
              {weekday(day)}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {weeks.map((days, index) => (
          <tr key={index}>
            <th scope="row">{weekNumber(days[0] as Day)}</th>
            {days.map((day, place) => (
              <td key={place} class={[day === today ? "today" : "", month && !day.startsWith(month) ? "outside" : ""].filter(Boolean).join(" ")}>
                <DayCell day={day} entries={entries.get(day) ?? []} isToday={day === today} limit={limit} />
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function dayLink(day: Day): string {
  const params = new URLSearchParams(location.search);
  params.set("day", day);
  return linkTo(["triggers", "calendar"], params);
}

function DayCell({ day, entries, isToday, limit }: { day: Day; entries: readonly Entry[]; isToday: boolean; limit: number }) {
  const { lines, rest } = linesOf(entries, limit);
  const words = `${dayInWords(day)}, ${entries.length ? plural(entries.length, "firing") : "no firings"}`;
  return (
    <>
      <a class="date" href={dayLink(day)} aria-label={words} aria-current={isToday ? "date" : undefined}>
        {Number(day.slice(8))}
      </a>
      <ul>
        {lines.map((line, index) => (
          <li key={index}>
            <LineLink day={day} line={line} />
          </li>
        ))}
        {rest > 0 && (
          <li>
            <a href={dayLink(day)}>{plural(rest, "more trigger", "more triggers")}</a>
          </li>
        )}
      </ul>
    </>
  );
}

function LineLink({ day, line: { entry, number, alike } }: { day: Day; line: Line }) {
  const { trigger, firing, state, word, time, instant } = entry;
  const name = <bdi>{printable(trigger.name)}</bdi>;
  if (number > 1) {
    const words = alike === number ? word : `${count(alike)} ${word}`;
    return (
      <a class={state} href={dayLink(day)} title={`${plural(number, "firing")} of ${trigger.playbook}/${trigger.name}: ${words}`}>
        <StateSign state={state} /> {count(number)}× {name} <span class="word">{words}</span>
      </a>
    );
  }
  return (
    <a class={state} href={linkOf(entry)} title={`${word}: ${trigger.playbook}/${trigger.name}, ${utc(instant)}`}>
      <StateSign state={state} /> <time dateTime={new Date(instant).toISOString()}>{time}</time> {name}{" "}
      <span class="word">{firing && firing.count > 1 ? `${word} ${count(firing.count)} times` : word}</span>
    </a>
  );
}

/** Return the link to the run of a firing, or else to its trigger. */
function linkOf({ firing, trigger }: Entry): string {
  return firing?.workflow_id ? linkTo(["runs", firing.workflow_id]) : playbookLink(trigger.playbook, ["triggers"], { trigger: trigger.name });
}

function Agenda({ days, entries, isRead }: { days: readonly Day[]; entries: Map<Day, Entry[]>; isRead: boolean }) {
  const busy = days.filter((day) => entries.has(day));
  if (!busy.length) return <p>{isRead ? "Nothing fires in this time." : "Reading the calendar …"}</p>;
  return <Firings days={busy} entries={entries} />;
}

/** A table of firings. Those of one trigger that are alike and follow each other are one row if a day has many. */
function Firings({ days, entries }: { days: readonly Day[]; entries: Map<Day, Entry[]> }) {
  return (
    <table class="firings">
      <thead>
        <tr>
          <th scope="col">Time</th>
          <th scope="col">Trigger</th>
          <th scope="col">Outcome</th>
          <th scope="col">Run, or why there is none</th>
        </tr>
      </thead>
      {days.map((day) => (
        <tbody key={day}>
          {days.length > 1 && (
            <tr>
              <th scope="rowgroup" colSpan={4}>
                {dayInWords(day)}
              </th>
            </tr>
          )}
          {(entries.get(day) ?? []).map((entry, index) => (
            <tr key={index}>
              <td>
                <time dateTime={new Date(entry.instant).toISOString()} title={utc(entry.instant)}>
                  {entry.time}
                </time>
              </td>
              <td>
                <a href={playbookLink(entry.trigger.playbook, ["triggers"], { trigger: entry.trigger.name })}>
                  <bdi>{printable(`${entry.trigger.playbook}/${entry.trigger.name}`)}</bdi>
                </a>
              </td>
              <td>
                <span class="state">
                  <StateSign state={entry.state} /> {printable(entry.word)}
                  {entry.firing && entry.firing.count > 1 && ` ${plural(entry.firing.count, "time")}`}
                </span>
              </td>
              <td>
                {entry.firing?.workflow_id ? (
                  <a href={linkOf(entry)}>{shortId(entry.firing.workflow_id)}</a>
                ) : (
                  <bdi>{printable(entry.firing?.reason ?? "")}</bdi>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      ))}
    </table>
  );
}

function Schedules({ triggers, isRead, more }: { triggers: readonly CalendarTrigger[]; isRead: boolean; more: ReadCalendar["more"] }) {
  if (!isRead) return <p>Reading the calendar …</p>;
  if (!triggers.length && !more) return <p>There are no schedules. Declare them under <code>triggers</code> of a playbook.</p>;
  return (
    <section aria-label="Schedules">
      <h3>Schedules of this calendar</h3>
      <table>
        <thead>
          <tr>
            <th scope="col">Trigger</th>
            <th scope="col">Schedule</th>
            <th scope="col">Not shown</th>
          </tr>
        </thead>
        <tbody>
          {triggers.map((trigger) => (
            <tr key={`${trigger.playbook} ${trigger.name}`}>
              <th scope="row">
                <a href={linkTo(["triggers", "calendar"], new URLSearchParams({ playbook: trigger.playbook, trigger: trigger.name }))}>
                  <bdi>{printable(`${trigger.playbook}/${trigger.name}`)}</bdi>
                </a>
              </th>
              <td>
                <bdi>{printable(trigger.schedule)}</bdi> {trigger.paused && <span class="wait">Paused</span>}
              </td>
              <td>
                {trigger.has_earlier && (
                  <>
                    past firings before <Time at={trigger.firings.at(-1)?.fired_at} />{" "}
                  </>
                )}
                {trigger.has_later && (
                  <>
                    firings to come after <Time at={trigger.planned.at(-1)?.due_at} />
                  </>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {more && (
        <p class="more">
          <button type="button" onClick={() => void more()}>
            Show more schedules
          </button>
        </p>
      )}
    </section>
  );
}
