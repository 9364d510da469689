// What else fires at one token of the indexed text.
import { html } from "../html.js";
import { coderPath, get } from "../api.js";
import { FeatureLink } from "../card.js";
import { number, percent } from "../numbers.js";
import { Loaded, useResource } from "../resource.js";
import { Token } from "../tokens.js";

export function At({ coder, position }) {
  const resource = useResource(`${coder.id} ${position}`, (abort) => get(coderPath(coder.id, `positions/${position}`), abort));
  return html`<div class="at">
    <${Loaded} resource=${resource} what="this token’s features">
      ${({ token, features }) => html`<p class="muted">Features at <${Token} text=${token} />:</p>
        ${features.length === 0 && html`<p class="muted">None.</p>`}
        <ul class="rows">
          ${features.map((row) => html`<li><${FeatureLink} coder=${coder.id} feature=${row.feature} label=${row.label} /> <span class="muted">${number(row.value)} · ${percent(row.share_of_max)} of max</span></li>`)}
        </ul>`}
    <//>
  </div>`;
}
