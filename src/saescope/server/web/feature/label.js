// The label, edited in place. Two people may edit at once: the second sees both texts and chooses; nothing is lost.
import { html, useEffect, useRef, useState } from "../html.js";
import { featurePath, get, put } from "../api.js";
import { Label, SCORED, sourceName } from "../card.js";
import { number } from "../numbers.js";
import { say } from "../state.js";

const revisionOf = (data) => data.label_revision ?? 0;

export function EditableLabel({ coder, data, change }) {
  const [draft, setDraft] = useState(null);
  const [conflict, setConflict] = useState(null);
  const [error, setError] = useState(null);
  const [saving, setSaving] = useState(false);
  const input = useRef(null);
  const opener = useRef(null);
  const editing = draft !== null;
  useEffect(() => {
    setDraft(null);
    setConflict(null);
    setError(null);
  }, [data.feature]);
  useEffect(() => {
    if (editing) input.current?.select();
  }, [editing]);

  const close = () => {
    setDraft(null);
    setConflict(null);
    setError(null);
    setTimeout(() => opener.current?.focus());
  };
  const save = async (text, revision = revisionOf(data)) => {
    setSaving(true);
    setError(null);
    try {
      await put(featurePath(coder, data.feature, "label"), { text, revision });
      const { label, label_revision, label_history } = await get(featurePath(coder, data.feature));
      change({ label, label_revision, label_history });
      say("Label saved");
      close();
    } catch (failure) {
      if (failure.status === 409) {
        const { label, label_revision, label_history } = await get(featurePath(coder, data.feature));
        change({ label, label_revision, label_history });
        setConflict({ theirs: label, mine: text, revision: revisionOf({ label, label_revision }) });
      } else setError(failure);
    } finally {
      setSaving(false);
    }
  };

  if (!editing) {
    return html`<span class="editable"><${Label} label=${data.label} /> <button ref=${opener} type="button" class="quiet small" onClick=${() => setDraft(data.label?.text ?? "")} aria-label="Edit label">edit</button></span>`;
  }
  return html`<form
    class="label-form"
    onSubmit=${(event) => {
      event.preventDefault();
      save(draft);
    }}
    onKeyDown=${(event) => event.key === "Escape" && (event.stopPropagation(), close())}
  >
    <input ref=${input} dir="auto" maxlength="1000" value=${draft} aria-label="Label" onInput=${(event) => setDraft(event.target.value)} />
    ${conflict
      ? html`<div class="conflict" role="alert">
          <p>Someone else labelled this feature meanwhile: <b><${Label} label=${conflict.theirs} /></b>. Both texts are kept in the history.</p>
          <button type="button" disabled=${saving} onClick=${() => save(draft, conflict.revision)}>Use mine</button>
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
