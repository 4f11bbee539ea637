/** Commands that show the same as the page in a terminal. */

export function commandOf(id: string, step: string | null): string {
  return `noetl runs show ${id}${step === null ? "" : ` --step ${quote(step)}`}`;
}

/** Quote a word for a shell, if it needs it. */
function quote(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
