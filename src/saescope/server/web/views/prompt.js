// A text and everything that fires on it: colour it by a feature, ask a token for its features, pin some, compare two texts.
import { html, useEffect, useState } from "../html.js";
import { FeatureLink } from "../card.js";
import { Segments, TextBox } from "../controls.js";
import { number, percent } from "../numbers.js";
import { Trace } from "../plots.js";
import { Loaded } from "../resource.js";
import { route, setParams } from "../route.js";
import { coder as current, trail } from "../state.js";
import { Token, TokenStrip } from "../tokens.js";
import { CannotRun, codes, coloured, usePrompt, useTyped } from "./by_text.js";
import { Chat, readTurns } from "./chat.js";
import { TwoPrompts } from "./two_prompts.js";

const MODES = [
  ["text", "text"],
  ["chat", "chat"],
  ["two", "two texts"],
];

const FIRST = 12;
const list = (text) => (text ?? "").split(",").filter((part) => /^\d+$/.test(part)).map(Number);

function Pinned({ coder, result, pins, color, at }) {
  if (!pins.length) return null;
  return html`<section>
    <h2>Followed over the text</h2>
    <ul class="followed">
      ${pins.map((feature) => {
        const values = result.pinned[feature] ?? [];
        const max = result.maxima[feature] ?? Math.max(...values, 0);
        const fires = values.flatMap((value, i) => (value > 0 ? [i] : []));
        const step = (direction) => {
          const next = direction > 0 ? fires.find((i) => i > at) ?? fires[0] : (fires.findLast((i) => i < at) ?? fires[fires.length - 1]);
          if (next !== undefined) setParams({ token: next, color: feature });
        };
        return html`<li key=${feature} class=${feature === color ? "on" : ""}>
          <div class="line">
            <${FeatureLink} coder=${coder.id} feature=${feature} label=${result.labels[feature]} />
            <span class="buttons">
              <button type="button" class="small" aria-pressed=${feature === color ? "true" : "false"} onClick=${() => setParams({ color: feature })}>colour</button>
              <button type="button" class="small" disabled=${!fires.length} aria-label=${`Previous firing of feature ${feature}`} onClick=${() => step(-1)}>‹</button>
              <button type="button" class="small" disabled=${!fires.length} aria-label=${`Next firing of feature ${feature}`} onClick=${() => step(1)}>›</button>
              <button type="button" class="small" aria-label=${`Unpin feature ${feature}`} onClick=${() => setParams({ pins: pins.filter((one) => one !== feature).join(",") })}>×</button>
            </span>
          </div>
          <${Trace} values=${values} max=${max} selected=${at} onPick=${(i) => setParams({ token: i, color: feature })} />
          <p class="muted small-text">${!result.pinned[feature] ? "…" : fires.length ? `fires on ${fires.length} of ${values.length} tokens, at most ${number(Math.max(...values))} (${percent(Math.max(...values) / max)} of max)` : "does not fire here"}</p>
        </li>`;
      })}
    </ul>
  </section>`;
}

function Rows({ coder, rows, labels, maxima, pins, color, note }) {
  const pin = (feature) => setParams({ pins: (pins.includes(feature) ? pins.filter((one) => one !== feature) : [...pins, feature]).join(",") });
  return html`<ol class="ranking">
    ${rows.map(
      (row) => html`<li key=${row.feature} data-feature=${row.feature} class=${row.feature === color ? "on" : ""}>
        <${FeatureLink} coder=${coder.id} feature=${row.feature} label=${labels[row.feature]} params=${{ text: route.value.params.text }} />
        <span class="line">
          <span class="muted">${note?.(row)} ${number(row.value)}${maxima[row.feature] ? ` (${percent(row.value / maxima[row.feature])} of max)` : ""}</span>
          <span class="buttons">
            <button type="button" class="small" aria-pressed=${row.feature === color ? "true" : "false"} aria-label=${`Colour by feature ${row.feature}`} onClick=${() => setParams({ color: row.feature })}>colour</button>
            <button type="button" class="small" aria-pressed=${pins.includes(row.feature) ? "true" : "false"} aria-label=${`Pin feature ${row.feature}`} onClick=${() => pin(row.feature)}>pin</button>
          </span>
        </span>
      </li>`,
    )}
  </ol>`;
}

function Result({ coder, result, params }) {
  const { tokens, pinned, labels, maxima, strongest, truncated } = result;
  const [all, setAll] = useState(false);
  const pins = list(params.pins);
  const color = /^\d+$/.test(params.color ?? "") ? Number(params.color) : (pins[0] ?? strongest[0]?.feature ?? null);
  const at = /^\d+$/.test(params.token ?? "") && Number(params.token) < tokens.length ? Number(params.token) : -1;
  const values = pinned[color];
  const max = maxima[color] ?? Math.max(...(values ?? [0]));
  useEffect(() => {
    trail.value = { coder: coder.id, features: strongest.map((row) => row.feature), name: "this text’s features", back: location.hash };
  }, [strongest]);
  return html`
    ${truncated && html`<p class="problem"><span>Only the first 1,024 tokens were read.</span></p>`}
    <p class="muted colour-note">${color === null ? "No feature fires on this text." : html`Coloured by <${FeatureLink} coder=${coder.id} feature=${color} label=${labels[color]} params=${{ text: params.text }} />`}</p>
    <${TokenStrip} tokens=${coloured(tokens, values ? { values } : strongest.find((row) => row.feature === color))} max=${max} selected=${at} onPick=${(i) => setParams({ token: i === at ? "" : i })} label="Your text. Enter shows a token’s features." />
    <${Pinned} coder=${coder} result=${result} pins=${pins} color=${color} at=${at} />
    <div class="columns">
      <section aria-live="polite">
        <h2>${at < 0 ? "At a token" : html`At <${Token} text=${tokens[at].t} />`}</h2>
        ${at < 0
          ? html`<p class="muted">Click a token, or move to it with the arrow keys and press Enter.</p>`
          : tokens[at].top.length
            ? html`<${Rows} coder=${coder} rows=${tokens[at].top} labels=${labels} maxima=${maxima} pins=${pins} color=${color} />`
            : html`<p class="muted">${tokens[at].k === false ? "This token is left out: it has no codes." : "No feature fires here."}</p>`}
      </section>
      <section>
        <h2>Strongest, by surprise</h2>
        <p class="muted small-text">Share of the feature’s maximum, weighed by how rarely it fires.</p>
        <${Rows} coder=${coder} rows=${all ? strongest : strongest.slice(0, FIRST)} labels=${labels} maxima=${maxima} pins=${pins} color=${color} note=${(row) => html`<${Token} text=${tokens[row.token]?.t ?? ""} />`} />
        ${strongest.length > FIRST && html`<button type="button" class="quiet" aria-expanded=${all ? "true" : "false"} onClick=${() => setAll(!all)}>${all ? "Show fewer" : `Show all ${strongest.length}`}</button>`}
      </section>
    </div>
  `;
}

function One({ coder, params, chat }) {
  const [typed, setTyped] = useTyped("text", params.text ?? "");
  const turns = chat ? readTurns(params.turns) : null;
  const asked = [...new Set([...list(params.pins), ...list(params.color)])];
  const resource = usePrompt(coder, turns ?? params.text ?? "", asked);
  return html`
    ${chat
      ? html`<${Chat} turns=${turns} />`
      : html`<${TextBox} id="search" rows="4" label="Your text" placeholder="Type or paste a text" value=${typed} onText=${setTyped} />`}
    <${Loaded} resource=${resource} what=${codes()}>${(result) => html`<${Result} coder=${coder} result=${result} params=${params} />`}<//>
  `;
}

export function Prompt() {
  const { params } = route.value;
  const coder = current.value;
  const mode = MODES.some(([key]) => key === params.mode) ? params.mode : "text";
  return html`<div class="prompt">
    <h1 tabindex="-1">Prompt <span class="muted">under <bdi>${coder.name}</bdi></span></h1>
    ${coder.can_run
      ? html`<${Segments} name="mode" legend="What to look at" options=${MODES} value=${mode} onPick=${(key) => setParams({ mode: key === "text" ? "" : key, token: "" }, false)} />
          ${mode === "two" ? html`<${TwoPrompts} coder=${coder} params=${params} />` : html`<${One} key=${mode} coder=${coder} params=${params} chat=${mode === "chat"} />`}`
      : html`<${CannotRun} coder=${coder} />`}
  </div>`;
}
