/** Days of a calendar as texts such as `2026-11-02`, and times of a zone. */

const DAY_MS = 86_400_000;
const SHORT = new Intl.DateTimeFormat("en-GB", { weekday: "short", timeZone: "UTC" });
const LONG = new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", year: "numeric", timeZone: "UTC" });
const MONTH = new Intl.DateTimeFormat("en-GB", { month: "long", year: "numeric", timeZone: "UTC" });

export type Day = string;

function dateOf(day: Day): Date {
  return new Date(`${day}T00:00:00Z`);
}

function dayOf(time: number): Day {
  return new Date(time).toISOString().slice(0, 10);
}

/** Return whether a text is a day that a calendar can show. */
export function isDay(text: string | null): text is Day {
  return text !== null && /^(19[7-9]|[2-7]\d\d)\d-\d\d-\d\d$/.test(text) && !Number.isNaN(dateOf(text).getTime()) && dayOf(dateOf(text).getTime()) === text;
}

export function addDays(day: Day, number: number): Day {
  return dayOf(dateOf(day).getTime() + number * DAY_MS);
}

/** Return the first day of the month that is `number` months later. */
export function addMonths(day: Day, number: number): Day {
  const date = dateOf(day);
  return dayOf(Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + number, 1));
}

/** Return the Monday of a week. */
export function mondayOf(day: Day): Day {
  return addDays(day, -((dateOf(day).getUTCDay() + 6) % 7));
}

/** Return the days of the weeks that have a day of the month. */
export function weeksOfMonth(day: Day): Day[][] {
  const weeks: Day[][] = [];
  const end = addMonths(day, 1);
  for (let monday = mondayOf(addMonths(day, 0)); monday < end; monday = addDays(monday, 7)) weeks.push(weekOf(monday));
  return weeks;
}

/** Return the seven days from a Monday on. */
export function weekOf(monday: Day): Day[] {
  return Array.from({ length: 7 }, (_, index) => addDays(monday, index));
}

/** Return the number of a week by ISO 8601: that of its Thursday in the year. */
export function weekNumber(monday: Day): number {
  const thursday = addDays(monday, 3);
  const first = Date.UTC(Number(thursday.slice(0, 4)), 0, 1);
  return Math.floor((dateOf(thursday).getTime() - first) / DAY_MS / 7) + 1;
}

export const weekday = (day: Day) => SHORT.format(dateOf(day));
export const dayInWords = (day: Day) => LONG.format(dateOf(day)).replace(",", "");
export const monthInWords = (day: Day) => MONTH.format(dateOf(day));

/** Return the instants between which all days lie, whatever the zone is. */
export function boundsOf(days: readonly Day[]): { since: string; until: string } {
  const first = dateOf(days[0] as Day).getTime() - 14 * 3_600_000;
  const last = dateOf(days.at(-1) as Day).getTime() + DAY_MS + 14 * 3_600_000;
  return { since: new Date(first).toISOString(), until: new Date(last).toISOString() };
}

export const BROWSER_ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** Return a function that returns the day and the time of an instant in a zone, or null if the browser does not know it. */
export function clockOf(zone: string): ((instant: string | number) => { day: Day; time: string }) | null {
  try {
    const format = new Intl.DateTimeFormat("sv-SE", { timeZone: zone, dateStyle: "short", timeStyle: "medium" });
    return (instant) => {
      const [day = "", time = ""] = format.format(new Date(instant)).split(" ");
      return { day, time: time.endsWith(":00") ? time.slice(0, 5) : time };
    };
  } catch {
    return null;
  }
}
