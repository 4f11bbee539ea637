/** Dialogs over the page. */

import type { RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";

/** Return the reference of a dialog that opens when it is shown first. The browser returns the focus at its end. */
export function useDialog(): RefObject<HTMLDialogElement | null> {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  return dialog;
}
