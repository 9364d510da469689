// What is counted of a feature: densities, values, output tokens, positions, where in the corpus.
import { html } from "../html.js";
import { number, percent, signed, whole } from "../numbers.js";
import { Bars } from "../plots.js";
import { href } from "../route.js";
import { Token } from "../tokens.js";

export function Distribution({ data }) {
  const { edges, counts } = data.histogram ?? { edges: [], counts: [] };
  const first = counts.findIndex((count) => count > 0);
  const last = counts.findLastIndex((count) => count > 0);
  const bars = first < 0 ? [] : counts.slice(first, last + 1).map((value, i) => ({ value, told: `${whole(value)} tokens with ${number(edges[first + i])} to ${number(edges[first + i + 1])}` }));
  const ticks = bars.length ? [first, Math.round((first + last + 1) / 2), last + 1].map((i) => number(edges[i], 2)) : [];
  return html`<section>
    <h2>Activations</h2>
    <dl class="pairs">
      <dt>fires on</dt><dd>${percent(data.density)} of tokens <span class="muted">(${whole(data.count)})</span></dd>
      <dt>mean, max</dt><dd>${number(data.mean)}, ${number(data.max)}</dd>
      ${data.decoder_norm !== null && data.decoder_norm !== undefined && html`<dt>decoder norm</dt><dd>${number(data.decoder_norm)}</dd>`}
    </dl>
    <${Bars} bars=${bars} ticks=${ticks} said="Tokens by activation, where it fires (log scale)." />
  </section>`;
}

function Logits({ rows, name }) {
  const top = Math.max(...rows.map((row) => Math.abs(row.logit)), 1e-9);
  return html`<div>
    <h3>${name}</h3>
    <ol class="logits">
      ${rows.map(
        (row) => html`<li>
          <${Token} text=${row.text} /><span class="mini" aria-hidden="true"><i style=${{ width: `${(100 * Math.abs(row.logit)) / top}%` }}></i></span><span class="number">${signed(row.logit, 2)}</span>
        </li>`,
      )}
    </ol>
  </div>`;
}

export function OutputTokens({ data }) {
  if (!data.outputs_top?.length) return null;
  return html`<section>
    <h2>What it makes likelier</h2>
    <div class="two"><${Logits} name="up" rows=${data.outputs_top} /><${Logits} name="down" rows=${data.outputs_bottom ?? []} /></div>
    <p class="muted small-text">Its direction through the model’s final norm and output matrix.</p>
  </section>`;
}

export function Positions({ data }) {
  const profile = data.position_profile;
  if (!profile?.bins?.length || !data.count) return null;
  const bars = profile.bins.map((bin, i) => ({
    value: profile.share[i],
    base: profile.base[i],
    told: `positions ${bin}: ${percent(profile.share[i])} of its firings, ${percent(profile.base[i])} of all tokens`,
  }));
  return html`<section>
    <h2>Where in a sequence</h2>
    <${Bars} bars=${bars} ticks=${[profile.bins[0], profile.bins[profile.bins.length - 1]]} said="Share of its firings by position; the ticks are all tokens’ share." height=${64} />
  </section>`;
}

export function Sources({ coder, data }) {
  if (!data.sources?.length && !data.documents?.length) return null;
  return html`<section>
    <h2>Where in the corpus</h2>
    ${data.sources?.length > 0 &&
    html`<table class="small-table"><thead><tr><th scope="col">source</th><th scope="col" class="n">tokens</th><th scope="col" class="n">density</th></tr></thead>
      <tbody>${data.sources.map((row) => html`<tr><th scope="row"><bdi>${row.name}</bdi></th><td class="n">${whole(row.count)}</td><td class="n">${percent(row.density)}</td></tr>`)}</tbody></table>`}
    ${data.documents?.length > 0 && html`<ol class="rows">${data.documents.map((row) => html`<li><a href=${href("document", coder.id, { document: row.index, feature: data.feature })}><bdi>${row.title || "untitled"}</bdi></a> <span class="muted">${whole(row.count)}</span></li>`)}</ol>`}
  </section>`;
}
