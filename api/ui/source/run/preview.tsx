/** What a command would do again, before it is given: the visits, and those of their actions that act outside. */

import type { RepeatedAction, RepeatedStep } from "../answers";
import { plural } from "../format";
import { printable } from "../parts/value";

const REASONS: Record<string, string> = {
  failed: "has failed",
  parked: "has not ended",
  skipped: "is skipped with the result",
  from: "begins here",
  after: "comes after it",
};

const DONE: Record<string, string> = { yes: "was done", no: "was not done", perhaps: "was perhaps done" };

export function RepeatedSteps({ steps }: { steps: readonly RepeatedStep[] }) {
  const actions = steps.flatMap((step) => step.actions);
  if (!steps.length) return <p>Nothing is done again.</p>;
  return (
    <>
      <p>
        {plural(steps.length, "step")} done again. {actions.length ? `Of their actions, ${plural(actions.length, "acts", "act")} outside.` : "None of their actions acts outside."}
      </p>
      <ul class="repeated">
        {steps.map(({ step, visit, reason, actions: outside }) => (
          <li key={`${step} ${visit}`}>
            <b>
              <bdi>{printable(step)}</bdi>
            </b>
            {visit > 1 && ` visit ${visit}`} {REASONS[reason] ?? reason}
            {outside.length > 0 && (
              <ul>
                {outside.map((action) => (
                  <li key={action.position} class={isRisky(action) ? "bad" : ""}>
                    {effectOf(action)}
                  </li>
                ))}
              </ul>
            )}
          </li>
        ))}
      </ul>
    </>
  );
}

/** Return whether an action may act twice, and a repetition has another effect. */
function isRisky({ done, idempotent }: RepeatedAction): boolean {
  return done !== "no" && !idempotent;
}

function effectOf(action: RepeatedAction): string {
  const place = action.line ? `, line ${action.line},` : "";
  const effect = action.done === "no" ? "" : action.idempotent ? ": a repetition has the same effect" : ": it acts twice";
  return `${action.action}${place} ${DONE[action.done] ?? action.done}${effect}`;
}
