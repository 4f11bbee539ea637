/** How much space the page has: side by side, views as tabs, or a phone. */

import { useEffect, useState } from "preact/hooks";

export type Width = "wide" | "narrow" | "phone";

const QUERIES = { phone: "(max-width: 700px)", narrow: "(max-width: 1000px)" } as const;

function read(): Width {
  return matchMedia(QUERIES.phone).matches ? "phone" : matchMedia(QUERIES.narrow).matches ? "narrow" : "wide";
}

export function useWidth(): Width {
  const [width, setWidth] = useState(read);
  useEffect(() => {
    const update = () => setWidth(read());
    const queries = Object.values(QUERIES).map((text) => matchMedia(text));
    for (const query of queries) query.addEventListener("change", update);
    return () => {
      for (const query of queries) query.removeEventListener("change", update);
    };
  }, []);
  return width;
}
