/** Texts of commands: the colours of ANSI (ECMA-48, SGR) are read, and all other controls become symbols. */

import { printable } from "./value";

const SGR = /\u001b\[([0-9;]*)m/g;

export interface Run {
  text: string;
  /** Classes such as `ansi1 bold`. Empty: as other text. */
  style: string;
}

/** Split a text at its changes of colour. Colours of 256 and more are left out. */
export function readColours(text: string): Run[] {
  const runs: Run[] = [];
  let place = 0;
  let colour = "";
  let isBold = false;
  const add = (part: string) => {
    if (part) runs.push({ text: part, style: [colour, isBold ? "bold" : ""].filter(Boolean).join(" ") });
  };
  for (const match of text.matchAll(SGR)) {
    add(text.slice(place, match.index));
    place = match.index + match[0].length;
    const codes = (match[1] || "0").split(";").map(Number);
    for (let index = 0; index < codes.length; index += 1) {
      const code = codes[index] as number;
      if (code === 0) [colour, isBold] = ["", false];
      else if (code === 1) isBold = true;
      else if (code === 22) isBold = false;
      else if (code === 39) colour = "";
      else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) colour = `ansi${code % 10}`;
      else if (code === 38 || code === 48) index += codes[index + 1] === 5 ? 2 : 4;
    }
  }
  add(text.slice(place));
  return runs;
}

export function ColouredText({ text }: { text: string }) {
  return (
    <>
      {readColours(text).map((run, index) => (
        <span key={index} class={run.style || undefined}>
          {printable(run.text)}
        </span>
      ))}
    </>
  );
}
