/** What a code of a finding means: the page that `noetl explain` shows. */

import { useEffect, useRef } from "preact/hooks";

import { useAnswer } from "../parts/context";

export function Explanation({ code, onClose }: { code: string; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const page = useAnswer<{ text: string }>(`/language/codes/${encodeURIComponent(code)}`);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} onClose={onClose} aria-label={`Explanation of ${code}`} class="explanation">
      {page.problem && <p class="problem">{page.problem}</p>}
      {page.data ? <Markdown text={page.data.text} /> : !page.problem && <p>Reading the page …</p>}
      <form method="dialog">
        <button>Close</button>
      </form>
    </dialog>
  );
}

/** Show the few forms of Markdown that these pages have: headings, blocks of code, bold words and code. */
function Markdown({ text }: { text: string }) {
  return (
    <>
      {text.split(/^```/m).map((part, index) => {
        if (index % 2) return <pre key={index}>{part.replace(/^\w*\n/, "")}</pre>;
        return part.split(/\n{2,}/).map((block, place) => {
          const heading = /^\s*#+ (.*)/.exec(block);
          if (heading) return <h2 key={place}>{heading[1]}</h2>;
          return block.trim() ? <p key={place}>{inline(block)}</p> : null;
        });
      })}
    </>
  );
}

function inline(text: string) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`")) return <code>{part.slice(1, -1)}</code>;
    return part.startsWith("**") ? <b>{part.slice(2, -2)}</b> : part;
  });
}
