// Steering: the model goes on writing with the feature's direction added, beside what it writes without.
import { html, useEffect, useRef, useState } from "../html.js";
import { coderPath, stream } from "../api.js";
import { TextBox } from "../controls.js";
import { number, signed } from "../numbers.js";
import { Problem } from "../resource.js";
import { route, setParams } from "../route.js";
import { say } from "../state.js";
import { TokenStrip } from "../tokens.js";
import { CannotRun, useTyped } from "../views/by_text.js";

const LIMIT = 4;
const STOPPED = { end: "both texts came to their end", time: "the time for one request was over" };
const EMPTY = { baseline: [], steered: [] };

function Numbers({ start, end }) {
  if (!start) return null;
  const share = start.norm_of_residual > 0 ? start.norm_of_edit / start.norm_of_residual : null;
  const both = end?.perplexity && end.perplexity.baseline !== null && end.perplexity.steered !== null;
  const change = both ? end.perplexity.steered - end.perplexity.baseline : null;
  return html`<dl class="pairs steer-numbers">
    <dt>edit’s norm</dt>
    <dd>${number(start.norm_of_edit)}${share !== null && html` <span class="muted">= ${number(share, 2)} × the residual’s ${number(start.norm_of_residual)}</span>${share > 1 && html` <span class="chip warn">larger than what it edits</span>`}`}</dd>
    ${end?.perplexity && html`<dt>perplexity</dt><dd>${number(end.perplexity.baseline)} → ${number(end.perplexity.steered)} ${change !== null && html`<span class="muted">(${signed(change)})</span>`}</dd>`}
    ${end && STOPPED[end.stopped] && html`<dt>ended</dt><dd>${STOPPED[end.stopped]}</dd>`}
  </dl>`;
}

export function Steer({ coder, data }) {
  const { params } = route.value;
  const strength = Math.min(20, Math.max(-20, Number(params.strength ?? 1) || 0));
  const chat = params.chat === "1";
  const [typed, setTyped] = useTyped("text", params.text ?? "");
  const [length, setLength] = useState(48);
  const [temperature, setTemperature] = useState(0);
  const [seed, setSeed] = useState(0);
  const [out, setOut] = useState(EMPTY);
  const [start, setStart] = useState(null);
  const [end, setEnd] = useState(null);
  const [error, setError] = useState(null);
  const running = useRef(null);
  const [busy, setBusy] = useState(false);
  const stop = () => running.current?.abort();
  useEffect(() => stop, []);
  // The button pressed is gone: the focus stays with the one in its place.
  const button = useRef(null);
  useEffect(() => {
    if (document.activeElement === document.body && (busy || start)) button.current?.focus();
  }, [busy]);
  if (!coder.can_run) return html`<${CannotRun} coder=${coder} />`;

  const run = async (event) => {
    event?.preventDefault();
    stop();
    const abort = new AbortController();
    running.current = abort;
    setOut(EMPTY);
    setStart(null);
    setEnd(null);
    setError(null);
    setBusy(true);
    let written = EMPTY;
    const asked = chat ? { turns: [{ role: "user", content: typed }] } : { text: typed };
    const body = { ...asked, feature: data.feature, strength, max_new_tokens: length, temperature, seed };
    try {
      for await (const line of stream(coderPath(coder.id, "steer"), body, abort.signal)) {
        if (line.event === "start") setStart(line);
        else if (line.event === "token") {
          written = { ...written, [line.which]: [...written[line.which], { t: line.t, v: line.v }] };
          setOut(written);
        } else if (line.event === "error") throw new Error(line.detail);
        else if (line.event === "end") {
          setEnd(line);
          say(`Done. Steered: ${written.steered.map((token) => token.t).join("")}`);
        }
      }
    } catch (failure) {
      if (failure.name !== "AbortError") setError(failure);
    } finally {
      if (running.current === abort) {
        running.current = null;
        setBusy(false);
      }
    }
  };
  const setStrength = (event) => setParams({ strength: event.target.value });
  const side = (which, name) => html`<div class="completion">
    <h3>${name}</h3>
    ${out[which].length ? html`<${TokenStrip} tokens=${out[which]} max=${data.max} label=${`${name} completion, coloured by this feature`} />` : html`<p class="muted">${busy ? "Writing…" : "–"}</p>`}
  </div>`;
  return html`<form class="steer" onSubmit=${run}>
    <${TextBox} id="try" rows="2" label="Text for the model to go on from" value=${typed} onText=${setTyped} />
    <div class="slider">
      <label for="strength">strength</label>
      <input id="strength" type="range" min=${-LIMIT} max=${LIMIT} step="0.25" value=${strength} onInput=${setStrength} aria-valuetext=${`${signed(strength)} times the feature’s maximum`} />
      <input type="number" min="-20" max="20" step="0.25" value=${strength} onChange=${setStrength} aria-label="Strength in units of the feature’s maximum" />
      <span class="muted">× its maximum (${number(data.max)})</span>
    </div>
    <div class="fields">
      <label class="check"><input type="checkbox" checked=${chat} onChange=${(event) => setParams({ chat: event.target.checked })} /> as a chat message</label>
      <label>tokens <input type="number" min="1" max="128" value=${length} onChange=${(event) => setLength(Math.min(128, Math.max(1, Number(event.target.value) || 48)))} /></label>
      <label>temperature <input type="number" min="0" max="2" step="0.1" value=${temperature} onChange=${(event) => setTemperature(Math.min(2, Math.max(0, Number(event.target.value) || 0)))} /></label>
      ${temperature > 0 && html`<label>seed <input type="number" min="0" value=${seed} onChange=${(event) => setSeed(Math.max(0, Math.floor(Number(event.target.value) || 0)))} /></label>`}
      <!-- Two buttons, not one that changes: a click on Stop must not go on to submit. -->
      ${busy ? html`<button key="stop" ref=${button} type="button" onClick=${stop}>Stop</button>` : html`<button key="go" ref=${button} type="submit" class="primary" disabled=${!typed.trim()}>Steer</button>`}
    </div>
    ${error && html`<${Problem} error=${error} />`}
    ${(busy || start) && html`<div class="two">${side("baseline", "Without")}${side("steered", `With ${signed(strength)} × max`)}</div>`}
    <${Numbers} start=${start} end=${end} />
  </form>`;
}
