// Side by side: two features, or several coders on the same text.
import { html, useEffect, useState } from "../html.js";
import { featurePath, get, post } from "../api.js";
import { Facts, Label, Score } from "../card.js";
import { Segments, TextBox } from "../controls.js";
import { Distribution, OutputTokens } from "../feature/numbers.js";
import { number, whole } from "../numbers.js";
import { Loaded, useResource } from "../resource.js";
import { featureHref, route, setParams } from "../route.js";
import { coder as current, workspace } from "../state.js";
import { TokenStrip } from "../tokens.js";
import { CannotRun, coloured, Ranked, usePrompt, useTyped } from "./by_text.js";

const numeric = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : null);

function Choose({ coder, name, value, label }) {
  const [typed, setTyped] = useState(value === null ? "" : String(value));
  useEffect(() => setTyped(value === null ? "" : String(value)), [value]);
  return html`<form class="line" onSubmit=${(event) => {
    event.preventDefault();
    setParams({ [name]: typed }, false);
  }}>
    <label>feature <input type="number" id=${name === "a" ? "search" : undefined} min="0" max=${coder.d_sae - 1} value=${typed} onInput=${(event) => setTyped(event.target.value)} aria-label=${label} /></label>
    <button type="submit" disabled=${typed === ""}>Show</button>
  </form>`;
}

function Side({ coder, name, feature, resource, values }) {
  return html`<section>
    <${Choose} coder=${coder} name=${name} value=${feature} label=${name === "a" ? "First feature" : "Second feature"} />
    <${Loaded} resource=${resource} what="the feature">
      ${(data) => html`
        <h2><a href=${featureHref(coder.id, data.feature)}><span class="number">#${data.feature}</span> <${Label} label=${data.label} /></a></h2>
        <p class="under"><${Facts} card=${data} /> <${Score} score=${data.label?.score} /></p>
        ${values && html`<${TokenStrip} tokens=${values(data.feature)} max=${data.max} label=${`Your text under feature ${data.feature}`} />`}
        <h3>Examples</h3>
        <ol class="examples">${(data.groups.find((group) => group.contexts.length)?.contexts ?? []).slice(0, 4).map((context) => html`<li class="example" key=${context.position}><${TokenStrip} tokens=${context.tokens} max=${data.max} peak=${context.peak} label=${`Example of feature ${data.feature}`} /></li>`)}</ol>
        <${OutputTokens} data=${data} />
        <${Distribution} data=${data} />
      `}
    <//>
  </section>`;
}

function relation(a, b) {
  const told = [];
  const find = (rows) => rows?.find((row) => row.feature === b.feature);
  const [coactive, decoder, encoder] = [find(a.coactive), find(a.nearest_decoder), find(a.nearest_encoder)];
  if (decoder) told.push(`decoder cosine ${number(decoder.cosine, 2)}`);
  if (encoder) told.push(`encoder cosine ${number(encoder.cosine, 2)}`);
  if (coactive) told.push(`fire together on ${whole(coactive.count)} tokens, lift ${number(coactive.lift)}`);
  if (a.family?.id !== undefined && a.family.id >= 0 && a.family.id === b.family?.id) told.push(`both in family ${a.family.id}`);
  const shared = (a.outputs_top ?? []).filter((row) => (b.outputs_top ?? []).some((other) => other.token === row.token && other.text === row.text));
  if (shared.length) told.push(`${shared.length} top output tokens in common`);
  return told.length ? told.join(" · ") : "Neither is among the other’s nearest or co-activating features.";
}

function TwoFeatures({ coder, params }) {
  const [a, b] = [numeric(params.a), numeric(params.b)];
  const load = (feature) => (abort) => get(featurePath(coder.id, feature), abort);
  const first = useResource(a === null ? null : `${coder.id}/${a}`, load(a));
  const second = useResource(b === null ? null : `${coder.id}/${b}`, load(b));
  const [typed, setTyped] = useTyped("text", params.text ?? "");
  const prompt = usePrompt(coder, params.text ?? "", [a, b].filter((feature) => feature !== null), 1);
  const values = prompt.data && ((feature) => coloured(prompt.data.tokens, { values: prompt.data.pinned[feature] }));
  return html`
    ${coder.can_run && html`<${TextBox} rows="2" label="A text to show under both" value=${typed} onText=${setTyped} />`}
    ${first.data && second.data && html`<p class="relation" role="status">${relation(first.data, second.data)}</p>`}
    <div class="two">
      <${Side} coder=${coder} name="a" feature=${a} resource=${first} values=${values} />
      <${Side} coder=${coder} name="b" feature=${b} resource=${second} values=${values} />
    </div>
  `;
}

function CoderSide({ coder, result }) {
  return html`<section>
    <h2><bdi>${coder.name}</bdi></h2>
    <p class="under">${coder.architecture} · ${coder.reads.join(", ")} · ${whole(coder.d_sae)} features</p>
    <${Ranked} coder=${coder} result=${result} name=${`The text under ${coder.name}`} limit=${20} />
  </section>`;
}

function Coders({ params }) {
  const able = workspace.value.coders.filter((one) => one.can_run);
  const asked = (params.coders ?? "").split(",").filter((id) => able.some((one) => one.id === id));
  const chosen = asked.length ? asked : able.slice(0, 2).map((one) => one.id);
  const [typed, setTyped] = useTyped("text", params.text ?? "");
  const body = { coders: chosen, text: params.text ?? "" };
  const resource = useResource(body.text.trim() && chosen.length ? JSON.stringify(body) : null, async (abort) => ({ chosen, ...(await post("compare/coders", body, abort)) }));
  if (!able.length) return html`<${CannotRun} coder=${current.value} />`;
  const toggle = (id) => setParams({ coders: (chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id]).join(",") });
  return html`
    <fieldset class="fields">
      <legend>Coders</legend>
      ${able.map((one) => html`<label class="check"><input type="checkbox" checked=${chosen.includes(one.id)} disabled=${chosen.length === 1 && chosen.includes(one.id)} onChange=${() => toggle(one.id)} /> <bdi>${one.name}</bdi></label>`)}
    </fieldset>
    ${able.length < 2 && html`<p class="muted">This workspace has one coder that can run here; add another to compare.</p>`}
    <${TextBox} id="search" label="A text to show under each coder" value=${typed} onText=${setTyped} />
    <${Loaded} resource=${resource} what="codes">
      ${({ chosen: ids, results }) => html`<div class="two">${results.map((result, i) => html`<${CoderSide} key=${ids[i]} coder=${workspace.value.coders.find((one) => one.id === ids[i])} result=${result} />`)}</div>`}
    <//>
  `;
}

export function Compare() {
  const { params } = route.value;
  const coder = current.value;
  const coders = params.what === "coders";
  return html`<div class="compare">
    <h1 tabindex="-1">Compare</h1>
    <${Segments} name="what" legend="Compare what" options=${[["features", "two features"], ["coders", "coders on one text"]]} value=${coders ? "coders" : "features"} onPick=${(what) => setParams({ what: what === "coders" ? what : "" }, false)} />
    ${coders ? html`<${Coders} params=${params} />` : html`<${TwoFeatures} coder=${coder} params=${params} />`}
  </div>`;
}
