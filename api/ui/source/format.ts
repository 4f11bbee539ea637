/** Times and numbers in words. Times are local, and titles have them in UTC. */

const NUMBER = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const DAY_OF_YEAR = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

export function count(value: number): string {
  return NUMBER.format(value);
}

export function plural(value: number, one: string, several = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : several}`;
}

/** Return the window of a rate, such as `1m` or `90s`. */
export function windowWords(seconds: number): string {
  const sizes: [string, number][] = [["d", 86_400], ["h", 3_600], ["m", 60]];
  const [unit, size] = sizes.find(([, size]) => seconds % size === 0) ?? ["s", 1];
  return `${seconds / size}${unit}`;
}

/** Return for which limit something waits, and how many are before it. A rate has no queue, but a time. */
export function limitWords({ limit, queued_before: before }: { limit: string; queued_before: number | null }, until: string | null = null): string {
  if (before === null) return `limit ${limit}${until ? ` until ${clock(until)}` : ""}`;
  return `limit ${limit}, ${before ? `${count(before)} ahead` : "next"}`;
}

/** Return a number of bytes, such as `48 KB` or `5.1 MB`. */
export function size(bytes: number): string {
  if (bytes < 1024) return `${count(bytes)} bytes`;
  const kilo = bytes / 1024;
  if (kilo < 1000) return `${Math.round(kilo)} KB`;
  return `${(kilo / 1024).toFixed(1)} MB`;
}

/** Return a duration with one or two units, such as `2 h 14 m`, `9.0 s` or `12 ms`. */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${Math.round(Math.max(ms, 0))} ms`;
  const seconds = ms / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return pair(minutes, "m", Math.round(seconds) % 60, "s");
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return pair(hours, "h", minutes % 60, "m");
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** Return how long ago a time is, with one unit. */
export function age(ms: number): string {
  const seconds = Math.max(ms, 0) / 1000;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** Return a local time, with the day unless it is today. */
export function clock(time: string | number, now = Date.now()): string {
  const date = new Date(time);
  const today = new Date(now);
  if (date.toDateString() === today.toDateString()) return CLOCK.format(date);
  const day = date.getFullYear() === today.getFullYear() ? DAY : DAY_OF_YEAR;
  return `${day.format(date)} ${CLOCK.format(date)}`;
}

export function utc(time: string | number): string {
  return new Date(time).toISOString().replace("T", " ").replace(/(\.\d+)?Z$/, " UTC");
}

/** Return the first characters of an id. Runs are named by them. */
export function shortId(id: string): string {
  return id.slice(0, 8);
}

function pair(first: number, unit: string, second: number, smaller: string): string {
  return second ? `${first} ${unit} ${second} ${smaller}` : `${first} ${unit}`;
}
