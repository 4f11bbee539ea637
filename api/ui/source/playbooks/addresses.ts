/** Addresses of playbooks: those of this page, and those of the service. */

import { linkTo } from "../address";

/** Return the link to a view of a playbook, such as `playbookLink("etl/load", ["versions", "2"])`. */
export function playbookLink(name: string, view: readonly string[] = [], params: Record<string, string | null> = {}): string {
  // `/ui/playbooks/new` is the editor of a new playbook, so one with this name has a longer address.
  const path = name === "new" && !view.length ? ["graph"] : view;
  const given = Object.entries(params).filter((entry): entry is [string, string] => entry[1] !== null);
  return linkTo(["playbooks", name, ...path], given.length ? new URLSearchParams(given) : undefined);
}

/** Return the path of a playbook in the service, of one version or the newest. */
export function playbookPath(name: string, version: string | null = null): string {
  const path = `/playbooks/${encodeURIComponent(name)}`;
  return version === null ? path : `${path}/versions/${encodeURIComponent(version)}`;
}
