// One's own text under this feature, as it is typed.
import { html } from "../html.js";
import { TextBox } from "../controls.js";
import { number, percent } from "../numbers.js";
import { Loaded } from "../resource.js";
import { href, route } from "../route.js";
import { Token, TokenStrip } from "../tokens.js";
import { CannotRun, codes, coloured, usePrompt, useTyped } from "../views/by_text.js";

export function TryText({ coder, data }) {
  const text = route.value.params.text ?? "";
  const [typed, setTyped] = useTyped("text", text);
  const resource = usePrompt(coder, text, [data.feature], 5);
  if (!coder.can_run) return html`<${CannotRun} coder=${coder} />`;
  return html`<div class="try">
    <${TextBox} id="try" rows="2" label="Your own text" placeholder="Type a sentence: it lights up where this feature fires" value=${typed} onText=${setTyped} />
    <${Loaded} resource=${resource} what=${codes()}>
      ${({ tokens, pinned, truncated }) => {
        // None yet where the answer is still another feature's.
        const values = pinned[data.feature];
        const peak = values ? values.indexOf(Math.max(...values, Number.MIN_VALUE)) : -1;
        return html`<${TokenStrip} tokens=${coloured(tokens, { values })} max=${data.max} peak=${peak} label="Your text under this feature" />
          <p class="muted told" role="status">
            ${!values ? "…" : peak < 0 ? "It does not fire on this text." : html`Strongest on <${Token} text=${tokens[peak].t} />: ${number(values[peak])}, ${percent(values[peak] / data.max)} of its maximum.`}
            ${truncated ? " Only the first 1,024 tokens were read." : ""} <a href=${href("prompt", coder.id, { text, color: data.feature, pins: data.feature })}>All features of this text</a>
          </p>`;
      }}
    <//>
  </div>`;
}
