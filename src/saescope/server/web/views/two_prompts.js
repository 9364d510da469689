// Two texts, and the features that differ most between them.
import { html } from "../html.js";
import { post } from "../api.js";
import { FeatureLink } from "../card.js";
import { TextBox } from "../controls.js";
import { number, signed } from "../numbers.js";
import { Loaded, useResource } from "../resource.js";
import { setParams } from "../route.js";
import { TokenStrip } from "../tokens.js";
import { coloured, useTyped } from "./by_text.js";

function Side({ name, text, set, tokens, row, max }) {
  return html`<div>
    <${TextBox} id=${name === "a" ? "search" : undefined} label=${`Text ${name.toUpperCase()}`} value=${text} onText=${set} />
    ${tokens && html`<${TokenStrip} tokens=${coloured(tokens, row?.[`on_${name}`])} max=${max} label=${`Text ${name.toUpperCase()}, coloured by feature ${row?.feature}`} />`}
  </div>`;
}

export function TwoPrompts({ coder, params }) {
  const [a, setA] = useTyped("text", params.text ?? "");
  const [b, setB] = useTyped("b", params.b ?? "");
  const ready = (params.text ?? "").trim() && (params.b ?? "").trim();
  const body = { coder: coder.id, a: params.text, b: params.b };
  const resource = useResource(ready ? JSON.stringify(body) : null, (abort) => post("compare/prompts", body, abort));
  const { data } = resource;
  const color = /^\d+$/.test(params.color ?? "") ? Number(params.color) : data?.features[0]?.feature;
  const row = data?.features.find((one) => one.feature === color);
  const max = row ? (row.max ?? Math.max(row.a, row.b)) : 0;
  const top = Math.max(...(data?.features ?? []).map((one) => Math.max(one.a, one.b)), 1e-9);
  return html`<div class="two">
      <${Side} name="a" text=${a} set=${setA} tokens=${data?.a.tokens} row=${row} max=${max} />
      <${Side} name="b" text=${b} set=${setB} tokens=${data?.b.tokens} row=${row} max=${max} />
    </div>
    ${!ready && html`<p class="muted">Type both texts to see which features differ.</p>`}
    <${Loaded} resource=${resource} what="both texts">
      ${({ features }) => html`<p class="count" role="status">${features.length} features, the most different first</p>
        <div class="scroller" tabindex="0" role="region" aria-label="Features that differ">
          <table class="differences">
            <thead><tr><th scope="col">feature</th><th scope="col" class="n">A</th><th scope="col" class="n">B</th><th scope="col" class="n">B − A</th><th scope="col"><span class="sr">colour</span></th></tr></thead>
            <tbody>
              ${features.map(
                (one) => html`<tr key=${one.feature} data-feature=${one.feature} class=${one.feature === color ? "on" : ""}>
                  <th scope="row"><${FeatureLink} coder=${coder.id} feature=${one.feature} label=${one.label} /></th>
                  <td class="n"><span class="pair-bar a" style=${{ width: `${(60 * one.a) / top}px` }}></span> ${number(one.a)}</td>
                  <td class="n"><span class="pair-bar b" style=${{ width: `${(60 * one.b) / top}px` }}></span> ${number(one.b)}</td>
                  <td class="n">${signed(one.difference)}</td>
                  <td><button type="button" class="small" aria-pressed=${one.feature === color ? "true" : "false"} aria-label=${`Colour by feature ${one.feature}`} onClick=${() => setParams({ color: one.feature })}>colour</button></td>
                </tr>`,
              )}
            </tbody>
          </table>
        </div>`}
    <//>`;
}
