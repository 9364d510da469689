// Search by a text: what fires on it most, and unusually so.
import { html, useEffect, useRef, useState } from "../html.js";
import { coderPath, post } from "../api.js";
import { FeatureLink } from "../card.js";
import { TextBox } from "../controls.js";
import { number, percent } from "../numbers.js";
import { Loaded, useResource, useSettled } from "../resource.js";
import { setParams } from "../route.js";
import { trail, workspace } from "../state.js";
import { Token, TokenStrip } from "../tokens.js";

/** Codes for a text, as typed; nothing is asked for an empty one. `features` are pinned: their values at every token. */
export function usePrompt(coder, text, features = [], top = 10) {
  const body = { ...(typeof text === "string" ? { text } : { turns: text }), features, top };
  const empty = typeof text === "string" ? !text.trim() : !text.some((turn) => turn.content.trim());
  return useResource(!coder.can_run || empty ? null : `${coder.id} ${JSON.stringify(body)}`, async (abort) => {
    const result = await post(coderPath(coder.id, "prompt"), body, abort);
    const { model } = workspace.peek();
    if (!model.loaded) workspace.value = { ...workspace.peek(), model: { ...model, loaded: true, state: "ready" } };
    return result;
  });
}

/** What is waited for: the first text of a server's life also waits for its model. */
export const codes = () => (workspace.value.model.loaded ? "codes" : "the model, for the first text, then codes");

/** A text's tokens with the values of what fires on it: one for each, or only those `at` which it fires. */
export const coloured = (tokens, { at, values } = {}) => tokens.map(({ t, k }, i) => ({ t, k, v: values?.[at ? at.indexOf(i) : i] ?? 0 }));

/** A text box whose settled content is kept in the address under `name`. */
export function useTyped(name, text) {
  const [typed, setTyped] = useState(text);
  const settled = useSettled(typed, 300);
  const own = useRef(text);
  useEffect(() => {
    if (text !== own.current) {
      own.current = text;
      setTyped(text);
    }
  }, [text]);
  useEffect(() => {
    if (settled !== own.current && settled === typed) {
      own.current = settled;
      setParams({ [name]: settled });
    }
  }, [settled]);
  return [typed, setTyped];
}

export const CannotRun = ({ coder }) => html`<p class="problem"><span>This coder can’t run on new text here. ${coder.why_not}</span></p>`;

/** A text's features by surprise, and the text coloured by the one that is pointed at. */
export function Ranked({ coder, result, name, limit, params }) {
  const [shown, setShown] = useState(null);
  const { tokens, strongest, labels, maxima, truncated } = result;
  const colouring = strongest.find((row) => row.feature === shown) ?? strongest[0];
  if (!colouring) return html`<p class="count" role="status">No feature fires on this text.</p>`;
  const { feature } = colouring;
  return html`
    ${truncated && html`<p class="problem"><span>Only the first 1,024 tokens were read.</span></p>`}
    <${TokenStrip} tokens=${coloured(tokens, colouring)} max=${maxima[feature]} label=${`${name}, coloured by feature ${feature}`} />
    <p class="count" role="status">${strongest.length} features, the most unusual first; the text is coloured by #${feature}</p>
    <ol class="ranking">
      ${strongest.slice(0, limit).map(
        (row) => html`<li key=${row.feature} data-feature=${row.feature} class=${row.feature === feature ? "on" : ""} onPointerEnter=${() => setShown(row.feature)} onFocusIn=${() => setShown(row.feature)}>
          <${FeatureLink} coder=${coder.id} feature=${row.feature} label=${labels[row.feature]} params=${params} />
          <span class="muted">on <${Token} text=${tokens[row.token]?.t ?? ""} /> ${number(row.value)} (${percent(row.value / maxima[row.feature])} of max)</span>
        </li>`,
      )}
    </ol>
  `;
}

export function ByText({ coder, text }) {
  const [typed, setTyped] = useTyped("text", text);
  const resource = usePrompt(coder, text);
  useEffect(() => {
    if (!resource.data) return;
    trail.value = { coder: coder.id, features: resource.data.strongest.map((row) => row.feature), name: "this text’s features", back: location.hash };
  }, [resource.data]);
  if (!coder.can_run) return html`<${CannotRun} coder=${coder} />`;
  return html`<div class="by-text">
    <${TextBox} id="search" label="A text to find features for" placeholder="Paste a sentence or a paragraph" value=${typed} onText=${setTyped} />
    <${Loaded} resource=${resource} what=${codes()}>${(result) => html`<${Ranked} coder=${coder} result=${result} name="Your text" params=${{ text }} />`}<//>
  </div>`;
}
