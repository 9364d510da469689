// Chat turns, kept in the address as JSON.
import { html, useEffect, useRef, useState } from "../html.js";
import { TextBox } from "../controls.js";
import { useSettled } from "../resource.js";
import { setParams } from "../route.js";

const ROLES = ["system", "user", "assistant"];
const START = [{ role: "user", content: "" }];

export function readTurns(text) {
  try {
    const turns = JSON.parse(text);
    const sound = Array.isArray(turns) && turns.length && turns.every((turn) => ROLES.includes(turn?.role) && typeof turn.content === "string");
    return sound ? turns.map(({ role, content }) => ({ role, content })) : START;
  } catch {
    return START;
  }
}

export function Chat({ turns }) {
  const [draft, setDraft] = useState(turns);
  const settled = useSettled(draft, 400);
  const own = useRef(JSON.stringify(turns));
  const asked = JSON.stringify(turns);
  useEffect(() => {
    if (asked !== own.current) {
      own.current = asked;
      setDraft(turns);
    }
  }, [asked]);
  useEffect(() => {
    const text = JSON.stringify(settled);
    if (text !== own.current && settled === draft) {
      own.current = text;
      setParams({ turns: text, token: "" });
    }
  }, [settled]);
  const change = (at, patch) => setDraft(draft.map((turn, i) => (i === at ? { ...turn, ...patch } : turn)));
  const next = draft[draft.length - 1]?.role === "user" ? "assistant" : "user";
  return html`<ol class="turns">
      ${draft.map(
        (turn, i) => html`<li key=${i}>
          <select aria-label=${`Role of turn ${i + 1}`} value=${turn.role} onChange=${(event) => change(i, { role: event.target.value })}>${ROLES.map((role) => html`<option value=${role}>${role}</option>`)}</select>
          <${TextBox} rows="2" label=${`Turn ${i + 1}`} value=${turn.content} onText=${(content) => change(i, { content })} />
          <button type="button" class="quiet" aria-label=${`Remove turn ${i + 1}`} disabled=${draft.length < 2} onClick=${() => setDraft(draft.filter((_, at) => at !== i))}>×</button>
        </li>`,
      )}
    </ol>
    <p class="actions"><button type="button" class="quiet" onClick=${() => setDraft([...draft, { role: next, content: "" }])}>Add a turn</button></p>`;
}
