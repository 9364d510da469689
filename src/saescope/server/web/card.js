// A feature in brief: its label, what it is, an example.
import { html } from "./html.js";
import { featurePath, put } from "./api.js";
import { number, percent } from "./numbers.js";
import { featureHref } from "./route.js";
import { say } from "./state.js";
import { Token, TokenStrip } from "./tokens.js";

const SOURCES = { person: "by a person", llm: "by a language model", contrastive: "contrastive", conflict: "by a person, too late to be shown" };

export const labelText = (label) => label?.text || "(no label)";
export const sourceName = (source) => SOURCES[source] ?? source;

export const Label = ({ label }) => html`<bdi class=${label?.text ? "label" : "label none"}>${labelText(label)}</bdi>`;

/** A link to a feature by number and label. */
export function FeatureLink({ coder, feature, label, params }) {
  return html`<a class="feature-link" href=${featureHref(coder, feature, params)}><span class="number">#${feature}</span> <${Label} label=${label} /></a>`;
}

export async function putStar(coder, feature, starred) {
  await put(featurePath(coder, feature, "star"), { starred });
  say(starred ? `Feature ${feature} starred` : `Feature ${feature} no longer starred`);
}

/** `onChange(starred)` after the server has it; a refusal is said, and nothing changes. */
export function Star({ coder, feature, starred, onChange }) {
  const toggle = async () => {
    try {
      await putStar(coder, feature, !starred);
      onChange(!starred);
    } catch (error) {
      say(error.message);
    }
  };
  return html`<button type="button" class="star" data-star=${feature} aria-pressed=${starred ? "true" : "false"} aria-label=${`Star feature ${feature}`} onClick=${toggle}>
    <span aria-hidden="true">${starred ? "★" : "☆"}</span>
  </button>`;
}

export const SCORED = "How well the label tells held-out windows where the feature fires from those where it doesn’t (balanced accuracy)";

export function Score({ score }) {
  if (score === null || score === undefined) return null;
  return html`<span class="score" title=${SCORED}>score ${number(score, 2)}</span>`;
}

export function Facts({ card }) {
  return html`<span class="facts">
    ${card.form && html`<span class="chip">${card.form}</span>`}
    ${card.level !== null && card.level !== undefined && card.level >= 0 && html`<span class="chip">level ${card.level}</span>`}
    ${card.density === 0 ? html`<span class="chip warn">never fires</span>` : html`<span>density ${percent(card.density)}</span><span>max ${number(card.max)}</span>`}
  </span>`;
}

export const Outputs = ({ outputs }) => (outputs?.length ? html`<span class="outputs"><span class="muted">→</span> ${outputs.slice(0, 5).map((text) => html`<${Token} text=${text} /> `)}</span>` : null);

export function Card({ coder, card, onChange, level = "h3" }) {
  return html`<article class="card" data-feature=${card.feature}>
    <header>
      <${level}><${FeatureLink} coder=${coder} feature=${card.feature} label=${card.label} /></${level}>
      <${Star} coder=${coder} feature=${card.feature} starred=${card.starred} onChange=${(starred) => onChange?.({ ...card, starred })} />
    </header>
    <p class="under"><${Facts} card=${card} /> <${Score} score=${card.label?.score} /></p>
    ${card.example && html`<${TokenStrip} tokens=${card.example.tokens} max=${card.max} peak=${card.example.peak} label=${`Example of feature ${card.feature}`} />`}
    <${Outputs} outputs=${card.outputs} />
  </article>`;
}
