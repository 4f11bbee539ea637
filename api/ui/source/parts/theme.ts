/** The colours of the page change with a button, with the system and with forced colours. */

import { useEffect, useState } from "preact/hooks";

/** Return a number that changes with the colours, for what is drawn on a canvas. */
export function useTheme(): number {
  const [version, setVersion] = useState(0);
  useEffect(() => {
    const update = () => setVersion((n) => n + 1);
    const observer = new MutationObserver(update);
    observer.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const queries = ["(prefers-color-scheme: dark)", "(forced-colors: active)"].map((text) => matchMedia(text));
    for (const query of queries) query.addEventListener("change", update);
    void document.fonts.ready.then(update);
    return () => {
      observer.disconnect();
      for (const query of queries) query.removeEventListener("change", update);
    };
  }, []);
  return version;
}
