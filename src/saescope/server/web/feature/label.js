// The label, edited in place. Two people may edit at once: the second sees both texts and chooses; nothing is lost.
import { html, useEffect, useRef, useState } from "../html.js";
import { featurePath, get, put } from "../api.js";
import { Label, SCORED, sourceName } from "../card.js";
import { number } from "../numbers.js";
import { say } from "../state.js";

export function EditableLabel({ coder, data, change }) {
  // With the revision that was seen when it was begun: what came meanwhile is not overwritten unseen.
  const [draft, setDraft] = useState(null);
  const [error, setError] = useState(null);
  const [saving, setSaving] = useState(false);
  const input = useRef(null);
  const opener = useRef(null);
  const editing = draft !== null;
  const revision = data.label_revision;
  const conflict = editing && draft.revision !== revision;
  useEffect(() => {
    if (editing) input.current?.select();
  }, [editing]);

  const close = () => {
    setDraft(null);
    setError(null);
    setTimeout(() => opener.current?.focus());
  };
  const newest = async () => {
    const { label, label_revision, label_history } = await get(featurePath(coder, data.feature));
    return { label, label_revision, label_history };
  };
  const save = async (text) => {
    setSaving(true);
    setError(null);
    try {
      await put(featurePath(coder, data.feature, "label"), { text, revision });
      change(await newest());
      close();
      say("Label saved");
    } catch (failure) {
      if (failure.status === 409) {
        setDraft({ text, revision });
        change(await newest());
      } else setError(failure);
    } finally {
      setSaving(false);
    }
  };

  if (!editing) {
    return html`<span class="editable"><${Label} label=${data.label} /> <button ref=${opener} type="button" class="quiet small" onClick=${() => setDraft({ text: data.label?.text ?? "", revision })} aria-label="Edit label">edit</button></span>`;
  }
  return html`<form
    class="label-form"
    onSubmit=${(event) => {
      event.preventDefault();
      save(draft.text);
    }}
    onKeyDown=${(event) => event.key === "Escape" && (event.stopPropagation(), close())}
  >
    <input ref=${input} dir="auto" maxlength="1000" value=${draft.text} aria-label="Label" onInput=${(event) => setDraft({ ...draft, text: event.target.value })} />
    ${conflict
      ? html`<div class="conflict" role="alert">
          <p>Someone else labelled this feature meanwhile: <b><${Label} label=${data.label} /></b>. Both texts are kept in the history.</p>
          <button type="button" disabled=${saving} onClick=${() => save(draft.text)}>Use mine</button>
          <button type="button" class="quiet" onClick=${close}>Keep theirs</button>
        </div>`
      : html`<button type="submit" disabled=${saving}>Save</button>
          ${data.label?.source === "person" && html`<button type="button" class="quiet" disabled=${saving} onClick=${() => save("")}>Use the automatic label</button>`}
          <button type="button" class="quiet" onClick=${close}>Cancel</button>`}
    ${error && html`<p class="problem" role="alert"><span>${error.message} Your text is still here.</span></p>`}
  </form>`;
}

export function History({ history }) {
  if (!history || history.length < 2) return null;
  return html`<details class="history">
    <summary>${history.length} labels so far</summary>
    <ol>${history.map((entry) => html`<li><bdi>${entry.text || "(automatic label)"}</bdi> <span class="muted">${sourceName(entry.source)}${entry.created ? `, ${String(entry.created).slice(0, 16).replace("T", " ")}` : ""}</span></li>`)}</ol>
  </details>`;
}

const CONTROLS = {
  random_label: "another feature’s label",
  top_token: "its most frequent token alone",
  null_detection: "no explanation",
  null_fuzzing: "no explanation, at fuzzing",
};

/** The score beside what chance and less would have on the same text. */
export function Controls({ label }) {
  if (label?.score === null || label?.score === undefined) return null;
  const { score, interval, controls } = label;
  return html`<dl class="controls">
    <div class="own"><dt title=${SCORED}>score</dt><dd>${number(score, 2)}${interval && html` <span class="muted">(95 %: ${number(interval[0], 2)} to ${number(interval[1], 2)})</span>`}</dd></div>
    ${Object.entries(controls).map(([key, value]) => html`<div><dt>${CONTROLS[key] ?? key}</dt><dd>${number(value, 2)}</dd></div>`)}
  </dl>`;
}
