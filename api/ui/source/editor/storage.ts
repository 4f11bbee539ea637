/** A draft in the storage of the browser. It is only there if a person wants it. */

const PREFIX = "noetl-draft:";

export interface StoredDraft {
  text: string;
  /** The version on which the draft is based. */
  version: string | null;
  at: number;
}

export function readStored(name: string): StoredDraft | null {
  try {
    const stored = JSON.parse(localStorage.getItem(PREFIX + name) ?? "null");
    return typeof stored?.text === "string" ? stored : null;
  } catch {
    return null;
  }
}

/** Store a draft, or remove it. Return whether the browser has done so. */
export function store(name: string, draft: StoredDraft | null): boolean {
  try {
    if (draft) localStorage.setItem(PREFIX + name, JSON.stringify(draft));
    else localStorage.removeItem(PREFIX + name);
    return true;
  } catch {
    return false;
  }
}
