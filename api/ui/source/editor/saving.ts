/** Saving a draft: why it is not possible, under which version, and what happens if another person was faster. */

import { useState } from "preact/hooks";

import { plural } from "../format";
import { describe, useShared } from "../parts/context";
import { Problem } from "../service";
import type { Draft, Registered } from "./answers";
import type { Checked } from "./checking";

export interface Saving {
  isSaving: boolean;
  /** The newest version, if another person has saved it meanwhile. */
  conflict: Registered | null;
  problem: string;
  /** Why this key may not save at all. */
  refusal: string;
  save: (text: string) => Promise<void>;
  /** Base the draft on the newest version. Its text stays. */
  accept: () => void;
}

export function useSaving(base: Registered | null, draft: Draft | null, onSaved: (registered: Registered) => void): Saving {
  const { service } = useShared();
  const [isSaving, setIsSaving] = useState(false);
  const [conflict, setConflict] = useState<Registered | null>(null);
  const [problem, setProblem] = useState("");
  const [refusal, setRefusal] = useState("");
  const save = async (text: string) => {
    const name = draft?.name ?? "";
    const known = base?.name === name ? base.version : "";
    setIsSaving(true);
    setProblem("");
    try {
      const path = `/playbooks?newest=${encodeURIComponent(known)}`;
      const entry = await service.read<Registered>(path, { method: "POST", body: { playbook: text } });
      setConflict(null);
      onSaved({ ...entry, source: text });
    } catch (error) {
      if (error instanceof Problem && error.status === 403) setRefusal(error.detail || error.title);
      else setProblem(describe(error));
      if (error instanceof Problem && error.status === 409) {
        const newest = await service.read<Registered>(`/playbooks/${encodeURIComponent(name)}`).catch(() => null);
        if (newest && newest.version !== known) {
          setConflict(newest);
          setProblem("");
        }
      }
    } finally {
      setIsSaving(false);
    }
  };
  const accept = () => {
    if (conflict) onSaved(conflict);
    setConflict(null);
  };
  return { isSaving, conflict, problem, refusal, save, accept };
}

const SAVING = "The draft is being saved.";
const CHECKING = "The text is being checked.";

/** Return whether a reason against saving ends without an act of the person. */
export function isTemporary(reason: string): boolean {
  return reason === SAVING || reason === CHECKING;
}

/** Return why a draft cannot be saved, or an empty text. */
export function reasonAgainst(text: string, base: Registered | null, checked: Checked, saving: Saving): string {
  const { draft } = checked;
  if (saving.refusal) return saving.refusal;
  if (saving.isSaving) return SAVING;
  if (saving.conflict) return `Version ${saving.conflict.version} was saved meanwhile.`;
  if (base && isSaved(text, base, checked)) {
    return text === base.source ? "Nothing has changed." : `Only comments or the layout differ from ${base.version}.`;
  }
  if (!draft || checked.text !== text) return checked.problem || CHECKING;
  if (!draft.is_parsed) return "The text cannot be read yet.";
  const errors = draft.diagnostics.filter(({ severity }) => severity === "error").length;
  if (errors) return `${plural(errors, "error")} ${errors > 1 ? "are" : "is"} left.`;
  if (base?.name === draft.name && draft.version !== null && draft.version === base.version) {
    return `Version ${base.version} is saved already. Change version in the text.`;
  }
  return "";
}

/** Return whether the text is that of the newest version, or another text of the same plan. */
function isSaved(text: string, base: Registered | null, { text: checked, draft }: Checked): boolean {
  return base !== null && (text === base.source || (checked === text && draft !== null && draft.hash === base.plan_hash));
}

/** Return the words of the button. */
export function saveLabel(text: string, base: Registered | null, checked: Checked): string {
  const { draft } = checked;
  if (base && isSaved(text, base, checked)) return `Already saved as ${/^\d/.test(base.version) ? "v" : ""}${base.version}`;
  const isSame = base !== null && (draft?.name ?? base.name) === base.name;
  const next = isSame ? Number(base.version) + 1 : 1;
  const version = draft?.version ?? (Number.isInteger(next) ? String(next) : "a new version");
  return `Save as ${/^\d/.test(version) ? "v" : ""}${version}`;
}
