// Where the feature fires: windows of text by how strongly, the peak ringed, each of which can be widened.
import { html, useState } from "../html.js";
import { featurePath, get, query } from "../api.js";
import { Segments } from "../controls.js";
import { number } from "../numbers.js";
import { Problem } from "../resource.js";
import { href, setParams } from "../route.js";
import { TokenStrip } from "../tokens.js";
import { At } from "./position.js";

const FIRST = 5;
const WIDER = [16, 48, 112, 256];

function Example({ coder, feature, max, context }) {
  const [wide, setWide] = useState({ context, step: 0 });
  const [error, setError] = useState(null);
  const [picked, setPicked] = useState(-1);
  const shown = wide.context;
  const widen = async (step) => {
    try {
      const reach = WIDER[step];
      const wider = step === 0 ? context : await get(featurePath(coder.id, feature, `context?${query({ position: context.position, before: reach, after: reach })}`));
      setWide({ context: wider, step });
      setPicked(-1);
      setError(null);
    } catch (failure) {
      setError(failure);
    }
  };
  const more = (shown.more_before || shown.more_after) && wide.step < WIDER.length - 1;
  return html`<li class="example">
    <div class="example-text">
      ${shown.more_before && html`<span class="muted" aria-hidden="true">…</span>`}<${TokenStrip} tokens=${shown.tokens} max=${max} peak=${shown.peak} selected=${picked} onPick=${(i) => setPicked(i === picked ? -1 : i)} label=${`Example, ${number(context.value)} at its peak`} />
      ${shown.more_after && html`<span class="muted last" aria-hidden="true">…</span>`}
    </div>
    <p class="example-foot">
      <b class="number">${number(context.value)}</b>
      ${context.document?.index >= 0 && html`<span>in <cite><a href=${href("document", coder.id, { document: context.document.index, feature, at: context.position })}><bdi>${context.document.title || "untitled"}</bdi></a></cite></span>`}
      ${more && html`<button type="button" class="quiet small" onClick=${() => widen(wide.step + 1)}>more context</button>`}
      ${wide.step > 0 && html`<button type="button" class="quiet small" onClick=${() => widen(0)}>less</button>`}
    </p>
    ${error && html`<${Problem} error=${error} />`}
    ${picked >= 0 && html`<${At} coder=${coder} position=${shown.tokens[picked].p} />`}
  </li>`;
}

function Group({ coder, feature, max, group }) {
  const [all, setAll] = useState(false);
  const shown = all ? group.contexts : group.contexts.slice(0, FIRST);
  if (!group.contexts.length) return html`<p class="muted">No example here.</p>`;
  return html`<ol class="examples">${shown.map((context) => html`<${Example} key=${context.position} coder=${coder} feature=${feature} max=${max} context=${context} />`)}</ol>
    ${group.contexts.length > FIRST && html`<button type="button" class="quiet" aria-expanded=${all ? "true" : "false"} onClick=${() => setAll(!all)}>${all ? "Show fewer" : `Show all ${group.contexts.length}`}</button>`}`;
}

export function Examples({ coder, data, group }) {
  const groups = data.groups.filter((one) => one.contexts.length);
  if (!groups.length) return html`<p class="muted">This feature never fires in the indexed text.</p>`;
  const shown = groups.filter((one) => !group || one.name === group);
  return html`<${Segments} small name="group" legend="Which examples" options=${[["", "all"], ...groups.map((one) => [one.name, one.name])]} value=${group ?? ""} onPick=${(name) => setParams({ group: name })} />
    ${(shown.length ? shown : groups).map(
      (one) => html`<h3 class="group">${one.name} <span class="muted">${number(one.low)} to ${number(one.high)}</span></h3>
        <${Group} key=${one.name} coder=${coder} feature=${data.feature} max=${data.max} group=${one} />`,
    )}`;
}
