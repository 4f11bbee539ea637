/** The rows of the list: pages by cursor, changes in place, and new runs that wait until they are wanted. */

import type { ListedRun, Page } from "../answers";
import { count } from "../format";
import { noteQuestions } from "../parts/questions";
import type { Service } from "../service";
import type { Frame } from "../stream";
import { filterQuery, OLDEST_FIRST, type RunFilter } from "./filter";

export const PAGE_SIZE = 200;

export class RunRows {
  rows: ListedRun[] = [];
  /** Runs that are newer than the first row, the newest first. They are not shown. */
  fresh: ListedRun[] = [];
  /** Runs of `rows` that the filter does not select any more. They stay while a person may point at a row. */
  readonly gone = new Set<string>();
  /** How many changes of the list may have changed the numbers of its runs. */
  changes = 0;
  isComplete = false;
  isLoading = false;
  private cursor: string | null = null;
  private polled = "";
  private readonly places = new Map<string, number>();
  private readonly now = Date.now();

  constructor(
    private readonly service: Service,
    readonly filter: RunFilter,
    private readonly onChange: () => void,
    private readonly signal: AbortSignal,
  ) {}

  /** Load the next page, unless one is loading or there are no more. */
  async loadMore(): Promise<void> {
    if (this.isLoading || this.isComplete) return;
    this.isLoading = true;
    try {
      const page = await this.readPage(this.cursor ?? "");
      for (const run of page.items) this.append(run);
      this.cursor = page.next_cursor;
      this.isComplete = page.next_cursor === null;
    } finally {
      this.isLoading = false;
      this.onChange();
    }
  }

  /** Apply a frame of the stream of runs. */
  apply({ event, data }: Frame): void {
    const run = data as ListedRun;
    if (event === "run") this.put(run);
    else if (event === "gone") this.drop(run.workflow_id);
    this.onChange();
  }

  /** Read the newest page again, for a service without streams. Return whether it has changed. */
  async poll(): Promise<boolean> {
    const page = await this.readPage("");
    const text = JSON.stringify(page.items);
    const hasChanged = text !== this.polled;
    this.polled = text;
    for (const run of [...page.items].reverse()) this.put(run);
    this.onChange();
    return hasChanged;
  }

  /** Show the runs that are new, without those that the filter does not select any more. */
  showFresh(): void {
    this.rows = [...this.fresh, ...this.rows.filter(({ workflow_id }) => !this.gone.has(workflow_id))];
    this.fresh = [];
    this.gone.clear();
    this.place();
  }

  /** Remove the rows that the filter does not select any more, but not those in `kept`. */
  sweep(kept: ReadonlySet<string>): void {
    this.rows = this.rows.filter(({ workflow_id: id }) => kept.has(id) || !this.gone.delete(id));
    this.place();
  }

  private place(): void {
    this.places.clear();
    this.rows.forEach((run, place) => this.places.set(run.workflow_id, place));
    this.onChange();
  }

  private readPage(cursor: string): Promise<Page<ListedRun>> {
    const more: Record<string, string | number> = { limit: PAGE_SIZE, cursor, sort: this.filter.sort };
    const path = `/workflows${filterQuery(this.filter, this.now, more)}`;
    return this.service.read<Page<ListedRun>>(path, { signal: this.signal });
  }

  private append(run: ListedRun): void {
    if (this.places.has(run.workflow_id)) return;
    this.places.set(run.workflow_id, this.rows.length);
    this.rows.push(run);
  }

  private put(run: ListedRun): void {
    const place = this.places.get(run.workflow_id);
    const waiting = this.fresh.findIndex(({ workflow_id }) => workflow_id === run.workflow_id);
    this.gone.delete(run.workflow_id);
    const old = place === undefined ? this.fresh[waiting] : this.rows[place];
    if (old?.status !== run.status) this.changes++;
    if (mayAsk(old, run)) noteQuestions();
    if (place !== undefined) this.rows[place] = run;
    else if (waiting >= 0) this.fresh[waiting] = run;
    else if (this.isNewest(run)) this.fresh.unshift(run);
  }

  private drop(id: string): void {
    this.changes++;
    noteQuestions();
    if (this.places.has(id)) this.gone.add(id);
    this.fresh = this.fresh.filter(({ workflow_id }) => workflow_id !== id);
  }

  private isNewest(run: ListedRun): boolean {
    const first = this.rows[0];
    if (this.filter.sort === OLDEST_FIRST) return false;
    return !first || run.created_at > first.created_at;
  }
}

/** Return whether a run may ask now, or has asked before, and is not as it was. */
function mayAsk(old: ListedRun | undefined, run: ListedRun): boolean {
  const isSame = old?.status === run.status && old.headline === run.headline;
  return !isSame && [old?.status, run.status].includes("waiting");
}

/** Return the words for runs that are new. */
export function freshWords(fresh: readonly ListedRun[]): string {
  return fresh.length === 1 ? "1 new run" : `${count(fresh.length)} new runs`;
}
