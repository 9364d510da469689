// One feature: what it is called, when it fires, what it does, and what it does on your own text.
import { html, useEffect } from "../html.js";
import { featurePath, get } from "../api.js";
import { Facts, Outputs, sourceName, Star } from "../card.js";
import { Step } from "../controls.js";
import { Loaded, useResource } from "../resource.js";
import { featureHref, href, route, setParams } from "../route.js";
import { coder as current, focusTitle, trail } from "../state.js";
import { Scale } from "../tokens.js";
import { Examples } from "../feature/examples.js";
import { Controls, EditableLabel, History } from "../feature/label.js";
import { Lists, Note } from "../feature/notes.js";
import { Distribution, OutputTokens, Positions, Sources } from "../feature/numbers.js";
import { Family, Relatives } from "../feature/relatives.js";
import { Steer } from "../feature/steer.js";
import { TryText } from "../feature/try_text.js";

/** The neighbours that `j` and `k` go to: in the list that one came from, else by number. */
function neighbours(coder, data) {
  const { feature } = route.value;
  const walked = trail.value;
  const at = walked && walked.coder === coder ? walked.features.indexOf(feature) : -1;
  if (at < 0) return data.feature === feature ? { previous: data.previous, next: data.next, place: null } : { previous: null, next: null, place: null };
  return {
    previous: walked.features[at - 1] ?? null,
    next: walked.features[at + 1] ?? null,
    place: { at: at + 1, of: walked.features.length, name: walked.name, back: walked.back },
  };
}

function Walk({ coder, data }) {
  const { previous, next, place } = neighbours(coder, data);
  const kept = { text: route.value.params.text, tool: route.value.params.tool };
  const to = (feature) => (feature === null ? null : featureHref(coder, feature, kept));
  return html`<nav class="walk" aria-label="Neighbouring features">
    <${Step} href=${to(previous)} rel="prev" label="Previous feature" />
    ${place ? html`<a href=${place.back}>${place.at} of ${place.of} in <bdi>${place.name}</bdi></a>` : html`<a href=${href("browse", coder)}>all features</a>`}
    <${Step} href=${to(next)} rel="next" label="Next feature" />
  </nav>`;
}

function Page({ coder, data, change }) {
  const { params } = route.value;
  const tool = params.tool ?? "text";
  return html`
    <header class="feature-head">
      <div class="line">
        <h1 tabindex="-1"><span class="number">#${data.feature}</span> <${EditableLabel} key=${data.feature} coder=${coder.id} data=${data} change=${change} /></h1>
        <${Star} coder=${coder.id} feature=${data.feature} starred=${data.starred} onChange=${(starred) => change({ starred })} />
      </div>
      <p class="under">
        ${data.label && html`<span class="chip">${sourceName(data.label.source)}</span>`}
        <${Facts} card=${data} /> <${Outputs} outputs=${data.outputs} />
        <a href=${href("compare", coder.id, { a: data.feature })}>compare</a>
      </p>
      <${Controls} label=${data.label} />
      <${History} history=${data.label_history} />
    </header>
    <div class="feature-body">
      <div class="main-column">
        <section class="tools" aria-label="Try this feature">
          <div class="tabs" role="tablist" aria-label="Try this feature">
            ${[
              ["text", "Try your own text"],
              ["steer", "Steer"],
            ].map(
              ([key, text]) => html`<button
                type="button"
                role="tab"
                id=${`tab-${key}`}
                aria-controls="tool"
                aria-selected=${tool === key ? "true" : "false"}
                tabindex=${tool === key ? 0 : -1}
                onClick=${() => setParams({ tool: key === "text" ? "" : key })}
                onKeyDown=${(event) => {
                  if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
                  setParams({ tool: tool === "text" ? "steer" : "" });
                  event.currentTarget.parentElement.querySelector(`#tab-${tool === "text" ? "steer" : "text"}`).focus();
                }}
              >${text}</button>`,
            )}
          </div>
          <div id="tool" role="tabpanel" aria-labelledby=${`tab-${tool}`}>
            ${tool === "steer" ? html`<${Steer} key=${data.feature} coder=${coder} data=${data} />` : html`<${TryText} coder=${coder} data=${data} />`}
          </div>
        </section>
        <section>
          <div class="line"><h2>Where it fires</h2><${Scale} max=${data.max} /></div>
          <${Examples} key=${data.feature} coder=${coder} data=${data} group=${params.group} />
        </section>
      </div>
      <div class="side-column">
        <${OutputTokens} data=${data} />
        <${Distribution} data=${data} />
        <${Relatives} coder=${coder} data=${data} />
        <${Family} coder=${coder} data=${data} />
        <${Positions} data=${data} />
        <${Sources} coder=${coder} data=${data} />
        <${Note} key=${`note ${data.feature}`} coder=${coder.id} data=${data} change=${change} />
        <${Lists} key=${`lists ${data.feature}`} coder=${coder.id} data=${data} change=${change} />
      </div>
    </div>
  `;
}

export function Feature() {
  const { feature } = route.value;
  const coder = current.value;
  const resource = useResource(`${coder.id}/${feature}`, (abort) => get(featurePath(coder.id, feature), abort));
  const { data } = resource;
  const label = data?.label?.text;
  useEffect(() => {
    if (data?.feature === feature) document.title = `#${feature} ${label ?? ""} · saescope`;
  }, [feature, label]);
  const arrived = data?.feature === feature || resource.error !== null;
  useEffect(() => {
    if (arrived) focusTitle();
  }, [arrived, feature]);
  const change = (patch) => resource.set((old) => ({ ...old, ...patch }));
  return html`<div class="feature">
    ${data && html`<${Walk} coder=${coder.id} data=${data} />`}
    ${!data && html`<h1 tabindex="-1"><span class="number">#${feature}</span></h1>`}
    <${Loaded} resource=${resource} what=${`feature ${feature}`}>${(loaded) => html`<${Page} coder=${coder} data=${loaded} change=${change} />`}<//>
  </div>`;
}
