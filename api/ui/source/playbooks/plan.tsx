/** The plan of a version: its graph, and next to it findings, inputs and the text of the chosen step. */

import { linkTo, setParams, useAddress } from "../address";
import { Drawing } from "../drawing/panel";
import { plural } from "../format";
import { useKeys } from "../parts/keys";
import { printable, Value } from "../parts/value";
import type { DeclaredInput, Finding, PlanAnswer, PlaybookDocument } from "./answers";
import { typeWords } from "./inputs";
import { usePlan } from "./loading";
import { stepText } from "./steps";

export function PlanPanels({ playbook }: { playbook: PlaybookDocument }) {
  const { parts, params } = useAddress();
  const { name, version } = playbook;
  const plan = usePlan({ name, version }, true);
  const step = params.get("step");
  const choose = (chosen: string | null) => setParams({ step: chosen }, { replace: true });
  useKeys({ Escape: () => step !== null && choose(null) });
  if (!plan.data) {
    return plan.problem ? (
      <p class="problem" role="alert">
        {plan.problem}
      </p>
    ) : (
      <p class="empty">Reading the plan …</p>
    );
  }
  const source = linkTo([...parts.filter((part) => part !== "graph"), "source"]);
  const { drawing, drawing_problem, graph } = plan.data;
  return (
    <div class="panels plan">
      {drawing ? (
        <Drawing graph={drawing} chosen={step} onChoose={choose} />
      ) : (
        <p class="empty">{drawing_problem ?? "This plan has no graph."}</p>
      )}
      <aside class="about" aria-label="About the playbook" tabIndex={0}>
        {step !== null && graph.steps[step] && (
          <section>
            <h2>
              <bdi>{printable(step)}</bdi>
            </h2>
            <StepSource plan={plan.data} step={step} text={playbook.source} source={source} />
          </section>
        )}
        <Findings findings={plan.data.diagnostics} source={source} />
        <Inputs inputs={plan.data.inputs} />
      </aside>
    </div>
  );
}

function StepSource({ plan, step, text, source }: { plan: PlanAnswer; step: string; text: string; source: string }) {
  const { line, lines } = stepText(plan, step, text);
  return (
    <>
      <ol class="source" start={line}>
        {lines.map((content, index) => (
          <li key={index} value={line + index}>
            <bdi>{printable(content) || " "}</bdi>
          </li>
        ))}
      </ol>
      <p>
        <a href={`${source}#L${line}`}>Line {line} in the source</a>
      </p>
    </>
  );
}

const ORDER = ["error", "warning", "note"] as const;

function Findings({ findings, source }: { findings: Finding[]; source: string }) {
  const sorted = ORDER.flatMap((severity) => findings.filter((finding) => finding.severity === severity));
  const counts = ORDER.map((severity) => plural(findings.filter((finding) => finding.severity === severity).length, severity));
  return (
    <section>
      <h3>
        Findings <small>{counts.join(", ")}</small>
      </h3>
      {!sorted.length && <p>The compiler has found nothing.</p>}
      <ul class="findings">
        {sorted.map((finding, index) => (
          <li key={index} class={finding.severity}>
            <p>
              <bdi>{printable(finding.message)}</bdi>
            </p>
            {finding.hint && (
              <p class="hint">
                <bdi>{printable(finding.hint)}</bdi>
              </p>
            )}
            <p class="place">
              {finding.severity} <code>{finding.code}</code> <a href={`${source}#L${finding.line}`}>line {finding.line}</a>
            </p>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Inputs({ inputs }: { inputs: Record<string, DeclaredInput> }) {
  const entries = Object.entries(inputs);
  return (
    <section>
      <h3>
        Inputs <small>{entries.some(([, { inferred }]) => inferred) ? "read by templates, not declared" : ""}</small>
      </h3>
      {!entries.length && <p>This playbook takes no input.</p>}
      <dl class="inputs">
        {entries.map(([name, field]) => (
          <div key={name}>
            <dt>
              <bdi class="key">{printable(name)}</bdi> <small>{typeWords(field)}</small>
            </dt>
            <dd>
              {field.description && <p>{printable(field.description)}</p>}
              {field.enum && (
                <p>
                  one of {field.enum.map((value) => JSON.stringify(value)).map(printable).join(", ")}
                </p>
              )}
              {!field.required && !field.inferred && (
                <p>
                  default <Value value={field.default} depth={2} />
                </p>
              )}
            </dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
