/** A view whose code is loaded when it is shown first, so that the first load of the page stays small. */

import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

/** Return a component that loads the module of a view, and then shows the view. */
export function lazy<Props extends object>(load: () => Promise<ComponentType<Props>>): ComponentType<Props> {
  let loaded: ComponentType<Props> | null = null;
  return function Lazy(props: Props) {
    const [View, setView] = useState<ComponentType<Props> | null>(() => loaded);
    const [isMissing, setIsMissing] = useState(false);
    useEffect(() => {
      if (loaded) return;
      load().then(
        (view) => {
          loaded = view;
          setView(() => view);
        },
        () => setIsMissing(true),
      );
    }, []);
    if (View) return <View {...props} />;
    return <main aria-busy={!isMissing}>{isMissing && <Missing />}</main>;
  };
}

function Missing() {
  return (
    <p class="empty">
      This view could not be loaded: the service does not answer, or it has a new version. <button onClick={() => location.reload()}>Load the page again</button>
    </p>
  );
}
