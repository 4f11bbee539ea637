/** The address of the view: every view, filter and selection is in it, so that a link shows the same. */

import { useEffect, useState } from "preact/hooks";

export interface Address {
  /** The parts of the path below `/ui`, such as `["runs", "4e21aa09"]`. */
  parts: string[];
  params: URLSearchParams;
  hash: string;
}

const CHANGED = "noetl-address";
let base = "";
let shown = "";

/** Set the path of the page, such as `/ui`, or `/prod/ui` behind a gateway. */
export function setBase(path: string): void {
  base = path;
  shown = currentLink();
  addEventListener("popstate", () => {
    if (new URL(shown, location.href).pathname !== location.pathname && !mayLeave()) history.pushState(null, "", shown);
    shown = currentLink();
    dispatchEvent(new Event(CHANGED));
  });
}

function currentLink(): string {
  return location.pathname + location.search + location.hash;
}

export function readAddress(): Address {
  const path = location.pathname.slice(base.length);
  const parts = path.split("/").filter(Boolean).map(decode);
  return { parts, params: new URLSearchParams(location.search), hash: location.hash.slice(1) };
}

/** Return a part of a path as text. A person may have typed a lone `%`, which stands for itself. */
function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Return the link to a view. */
export function linkTo(parts: readonly string[], params?: URLSearchParams, hash = ""): string {
  const search = params?.toString();
  return `${base}/${parts.map(encodeURIComponent).join("/")}${search ? `?${search}` : ""}${hash ? `#${hash}` : ""}`;
}

let question: string | null = null;

/** Ask this before the address leads to another view; null: do not ask. */
export function askBeforeLeaving(text: string | null): void {
  question = text;
}

function mayLeave(): boolean {
  if (question !== null && !confirm(question)) return false;
  question = null;
  return true;
}

export function go(link: string, { replace = false } = {}): void {
  if (link === currentLink()) return;
  if (new URL(link, location.href).pathname !== location.pathname && !mayLeave()) return;
  if (replace) history.replaceState(history.state, "", link);
  else history.pushState(null, "", link);
  shown = currentLink();
  dispatchEvent(new Event(CHANGED));
}

/** Give the view that is shown another address. It is not drawn again. */
export function replaceAddress(link: string): void {
  history.replaceState(history.state, "", link);
  shown = currentLink();
}

/** Change parameters of the address. An empty value removes one. */
export function setParams(
  changes: Record<string, string | string[] | null>,
  { hash: newHash, ...options }: { replace?: boolean; hash?: string } = {},
): void {
  const { parts, params, hash: oldHash } = readAddress();
  const hash = newHash ?? oldHash;
  for (const [name, value] of Object.entries(changes)) {
    params.delete(name);
    for (const item of Array.isArray(value) ? value : [value]) if (item) params.append(name, item);
  }
  go(linkTo(parts, params, hash), options);
}

export function useAddress(): Address {
  const [address, setAddress] = useState(readAddress);
  useEffect(() => {
    const update = () => setAddress(readAddress());
    addEventListener(CHANGED, update);
    return () => {
      removeEventListener(CHANGED, update);
    };
  }, []);
  return address;
}

/** Follow links of the page without loading it again. Other buttons and keys do what browsers do. */
export function followLinks(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) {
    return;
  }
  const anchor = (event.target as Element).closest?.("a[href]");
  if (!(anchor instanceof HTMLAnchorElement) || anchor.target || anchor.origin !== location.origin) return;
  if (!anchor.pathname.startsWith(`${base}/`)) return;
  event.preventDefault();
  go(anchor.pathname + anchor.search + anchor.hash);
}
