// Features that have to do with this one: fire with it, point its way, belong to its family, split from it.
import { html } from "../html.js";
import { FeatureLink } from "../card.js";
import { Segments } from "../controls.js";
import { number, whole } from "../numbers.js";
import { href, route, setParams } from "../route.js";

const KINDS = [
  ["coactive", "fire with it", (row) => `lift ${number(row.lift)} · φ ${number(row.phi, 2)} · ${whole(row.count)} tokens`],
  ["nearest_decoder", "write alike", (row) => `cosine ${number(row.cosine, 2)}`],
  ["nearest_encoder", "read alike", (row) => `cosine ${number(row.cosine, 2)}`],
];

export function Relatives({ coder, data }) {
  const kinds = KINDS.filter(([key]) => data[key]?.length);
  if (!kinds.length) return null;
  const chosen = kinds.find(([key]) => key === route.value.params.kin) ?? kinds[0];
  return html`<section>
    <h2>Related features</h2>
    ${kinds.length > 1 ? html`<${Segments} small name="kin" legend="Related how" options=${kinds} value=${chosen[0]} onPick=${(kin) => setParams({ kin })} />` : html`<p class="muted">${chosen[1]}</p>`}
    <ol class="rows">
      ${data[chosen[0]].map(
        (row) => html`<li><${FeatureLink} coder=${coder.id} feature=${row.feature} label=${row.label} />
          <span class="muted">${chosen[2](row)} · <a href=${href("compare", coder.id, { a: data.feature, b: row.feature })} aria-label=${`Compare with feature ${row.feature}`}>compare</a></span></li>`,
      )}
    </ol>
    ${chosen[0] === "nearest_decoder" && data.neurons?.length > 0 && html`<p class="muted small-text">Largest decoder weights: ${data.neurons.slice(0, 5).map((row) => `${row.dimension} (${number(row.weight, 2)})`).join(", ")}</p>`}
  </section>`;
}

const Branch = ({ coder, name, rows }) =>
  rows?.length
    ? html`<li>${name}<ul>${rows.map((row) => html`<li><${FeatureLink} coder=${coder.id} feature=${row.feature} label=${row.label} />${row.score !== undefined && html` <span class="muted">${number(row.score, 2)}</span>`}</li>`)}</ul></li>`
    : null;

export function Family({ coder, data }) {
  const members = (data.family?.members ?? []).filter((row) => row.feature !== data.feature);
  if (!members.length && !data.splits_into?.length && !data.split_of?.length) return null;
  return html`<section>
    <h2>Family</h2>
    <ul class="tree">
      <${Branch} coder=${coder} name="splits from the coarser" rows=${data.split_of} />
      <${Branch} coder=${coder} name="splits into the finer" rows=${data.splits_into} />
      <${Branch} coder=${coder} name=${`family ${data.family?.id ?? ""}`} rows=${members} />
    </ul>
  </section>`;
}
