// What people write beside a feature: a note, and the lists it is on.
import { html, useEffect, useState } from "../html.js";
import { featurePath, get, put } from "../api.js";
import { Problem, useResource } from "../resource.js";
import { href } from "../route.js";
import { say } from "../state.js";

// What is typed but not saved outlasts a look at another feature.
const drafts = new Map();

export function Note({ coder, data, change }) {
  const { note } = data;
  const key = `${coder}/${data.feature}`;
  // The revision that was seen when typing began: what came meanwhile is not overwritten unseen.
  const [own, setOwn] = useState(drafts.get(key));
  const { text, revision } = own ?? note;
  const setDraft = (draft) => {
    if (draft) drafts.set(key, draft);
    else drafts.delete(key);
    setOwn(draft);
  };
  const [error, setError] = useState(null);
  const unsaved = text !== note.text;
  const conflict = unsaved && revision !== note.revision;
  useEffect(() => {
    if (!unsaved) return undefined;
    const warn = (event) => event.preventDefault();
    addEventListener("beforeunload", warn);
    return () => removeEventListener("beforeunload", warn);
  }, [unsaved]);
  const save = async () => {
    setError(null);
    try {
      const kept = await put(featurePath(coder, data.feature, "note"), { text, revision: note.revision });
      // Who went on typing has that still to save.
      const now = drafts.get(key)?.text ?? text;
      setDraft(now === text ? undefined : { ...kept, text: now });
      change({ note: kept });
      say("Note saved");
    } catch (failure) {
      if (failure.status === 409) change({ note: (await get(featurePath(coder, data.feature))).note });
      else setError(failure);
    }
  };
  return html`<section>
    <h2><label for="note">Note</label></h2>
    <textarea id="note" rows="3" dir="auto" value=${text} onInput=${(event) => setDraft({ text: event.target.value, revision })}></textarea>
    ${conflict && html`<div class="conflict" role="alert"><p>The note was changed meanwhile. It now says: <q><bdi>${note.text}</bdi></q></p></div>`}
    ${unsaved && html`<p class="actions"><button type="button" onClick=${save}>${conflict ? "Replace with mine" : "Save note"}</button>
      <button type="button" class="quiet" onClick=${() => setDraft()}>${conflict ? "Keep theirs" : "Undo"}</button></p>`}
    ${error && html`<${Problem} error=${error} />`}
  </section>`;
}

export function Lists({ coder, data, change }) {
  const [name, setName] = useState("");
  const [error, setError] = useState(null);
  const known = useResource("lists", (abort) => get("lists", abort));
  const lists = data.lists ?? [];
  const keep = async (next) => {
    try {
      await put(featurePath(coder, data.feature, "lists"), { lists: next });
      change({ lists: next });
      setName("");
      setError(null);
      known.reload();
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<section>
    <h2>Lists</h2>
    ${lists.length > 0 && html`<ul class="chips">${lists.map((list) => html`<li class="chip"><a href=${href("browse", coder, { list })}><bdi>${list}</bdi></a> <button type="button" class="quiet small" aria-label=${`Take off list ${list}`} onClick=${() => keep(lists.filter((one) => one !== list))}>×</button></li>`)}</ul>`}
    <form class="line" onSubmit=${(event) => {
      event.preventDefault();
      if (name.trim() && !lists.includes(name.trim())) keep([...lists, name.trim()]);
    }}>
      <input list="known-lists" maxlength="100" aria-label="List to put this feature on" placeholder="put on a list" value=${name} onInput=${(event) => setName(event.target.value)} />
      <datalist id="known-lists">${(known.data?.lists ?? []).map((list) => html`<option value=${list.name}></option>`)}</datalist>
      <button type="submit" disabled=${!name.trim()}>Add</button>
    </form>
    ${error && html`<${Problem} error=${error} />`}
  </section>`;
}
