// Every feature, found: by label, by meaning, by a text that it fires on; filtered, sorted, page by page.
import { html, useEffect, useRef, useState } from "../html.js";
import { coderPath, get, query } from "../api.js";
import { Card, Label, Outputs, Star } from "../card.js";
import { Pages, Segments, Select } from "../controls.js";
import { number, percent, whole } from "../numbers.js";
import { Loaded, useResource, useSettled } from "../resource.js";
import { featureHref, href, route, setParams } from "../route.js";
import { coder as current, trail } from "../state.js";
import { TokenStrip } from "../tokens.js";
import { ByText } from "./by_text.js";

const LIMIT = 30;
const FILTERS = ["form", "level", "min_density", "max_density", "min_score", "starred", "list"];
const BOUNDS = [
  ["min_density", "density ≥", "0"],
  ["max_density", "density ≤", "1"],
  ["min_score", "score ≥", "0"],
];
const SORTS = [
  ["relevance", "relevance"],
  ["density", "density"],
  ["max", "maximum"],
  ["score", "label score"],
  ["feature", "number"],
  ["label", "label"],
];
const WAYS = [
  ["label", "by label", "Words in labels and output tokens, or a feature’s number"],
  ["meaning", "by meaning", "A description; need not use the label’s words"],
  ["text", "by text", "A sentence; finds what fires on it, unusually"],
];

const sortOf = (params) => params.sort || (params.q ? "relevance" : "feature");

function Search({ params }) {
  const by = params.by ?? "label";
  const [typed, setTyped] = useState(params.q ?? "");
  const settled = useSettled(typed, 250);
  const own = useRef(params.q ?? "");
  useEffect(() => {
    // The address changed under the box (a link, back): follow it.
    if ((params.q ?? "") !== own.current) {
      own.current = params.q ?? "";
      setTyped(own.current);
    }
  }, [params.q]);
  useEffect(() => {
    if (settled !== own.current && settled === typed) {
      own.current = settled;
      setParams({ q: settled, offset: "", sort: settled && !params.q ? "" : params.sort });
    }
  }, [settled]);
  const [, , hint] = WAYS.find(([way]) => way === by) ?? WAYS[0];
  return html`<form class="search" role="search" onSubmit=${(event) => event.preventDefault()}>
    <${Segments} name="by" legend="Search by" options=${WAYS} value=${by} onPick=${(way) => setParams({ by: way === "label" ? "" : way, offset: "" }, false)} />
    ${by !== "text" && html`<input id="search" type="search" aria-label=${`Search features by ${by}`} placeholder=${hint} value=${typed} onInput=${(event) => setTyped(event.target.value)} />`}
  </form>`;
}

function Filters({ coder, params }) {
  const put = (key) => (value) => setParams({ [key]: value, offset: "" });
  const lists = useResource("lists", (abort) => get("lists", abort));
  const active = FILTERS.filter((key) => params[key]).length;
  return html`<details class="filters" open=${active > 0 || innerWidth > 700}>
    <summary>Filters${active ? ` (${active})` : ""}</summary>
    <div class="fields">
      ${coder.forms.length > 0 && html`<${Select} label="form" options=${coder.forms.map((form) => [form, form])} value=${params.form} onPick=${put("form")} />`}
      ${coder.levels.length > 1 && html`<${Select} label="level" options=${coder.levels.map((_, level) => [String(level), level])} value=${params.level} onPick=${put("level")} />`}
      ${BOUNDS.map(([key, text, bound]) => html`<label>${text} <input type="number" min="0" max="1" step="any" value=${params[key] ?? ""} placeholder=${bound} onChange=${(event) => put(key)(event.target.value)} /></label>`)}
      ${lists.data?.lists.length > 0 && html`<${Select} label="list" options=${lists.data.lists.map((list) => [list.name, `${list.name} (${list.count})`])} value=${params.list} onPick=${put("list")} />`}
      <label class="check"><input type="checkbox" checked=${params.starred === "1"} onChange=${(event) => put("starred")(event.target.checked)} /> starred</label>
      ${active > 0 && html`<button type="button" class="quiet" onClick=${() => setParams(Object.fromEntries([...FILTERS, "offset"].map((key) => [key, ""])))}>Clear filters</button>`}
    </div>
  </details>`;
}

function Table({ coder, items, onChange }) {
  return html`<div class="scroller" tabindex="0" role="region" aria-label="Features as a table">
    <table class="features">
      <thead>
        <tr><th scope="col"><span class="sr">star</span></th><th scope="col" class="n">#</th><th scope="col">label</th><th scope="col" class="n">score</th><th scope="col" class="n">density</th><th scope="col" class="n">max</th><th scope="col">form</th><th scope="col">outputs</th><th scope="col">example</th></tr>
      </thead>
      <tbody>
        ${items.map(
          (card) => html`<tr key=${card.feature} data-feature=${card.feature}>
            <td><${Star} coder=${coder.id} feature=${card.feature} starred=${card.starred} onChange=${(starred) => onChange({ ...card, starred })} /></td>
            <td class="n">${card.feature}</td>
            <th scope="row"><a class="row-link" href=${featureHref(coder.id, card.feature)}><${Label} label=${card.label} /></a></th>
            <td class="n">${number(card.label?.score, 2)}</td>
            <td class="n">${percent(card.density)}</td>
            <td class="n">${number(card.max)}</td>
            <td>${card.form}</td>
            <td class="tight"><${Outputs} outputs=${card.outputs?.slice(0, 3)} /></td>
            <td class="tight">${card.example && html`<${Clip} card=${card} />`}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** A few tokens about the peak. */
function Clip({ card }) {
  const { tokens, peak } = card.example;
  const from = Math.max(0, peak - 4);
  return html`<${TokenStrip} tokens=${tokens.slice(from, peak + 4)} max=${card.max} peak=${peak - from} label=${`Example of feature ${card.feature}`} />`;
}

function toTop() {
  scrollTo(0, 0);
  document.querySelector("main h1").focus({ preventScroll: true });
}

function Found({ coder, params }) {
  const offset = Number(params.offset) || 0;
  const search = query({
    ...Object.fromEntries(["q", ...FILTERS].map((key) => [key, params[key]])),
    by: params.by ?? "label",
    sort: sortOf(params),
    order: params.order || (["label", "feature"].includes(sortOf(params)) ? "asc" : "desc"),
    offset,
    limit: LIMIT,
  });
  const resource = useResource(`${coder.id}?${search}`, (abort) => get(coderPath(coder.id, `features?${search}`), abort));
  useEffect(() => {
    if (!resource.data || resource.stale) return;
    trail.value = {
      coder: coder.id,
      features: resource.data.items.map((card) => card.feature),
      name: params.q ? `“${params.q}”` : "the list",
      back: location.hash,
    };
  }, [resource.data, resource.stale]);
  const change = (card) => resource.set((old) => ({ ...old, items: old.items.map((one) => (one.feature === card.feature ? card : one)) }));
  return html`<${Loaded} resource=${resource} what="features">
    ${({ total, items }) => html`
      <p class="count" role="status">${total === 0 ? "No feature fits." : `${whole(total)} ${total === 1 ? "feature" : "features"}`}${total === 0 && params.q && (params.by ?? "label") === "label" ? html` <a href=${href("browse", coder.id, { ...params, by: "meaning" })}>Search by meaning</a> instead?` : ""}</p>
      ${total > 0 &&
      (params.as === "table"
        ? html`<${Table} coder=${coder} items=${items} onChange=${change} />`
        : html`<div class="cards">${items.map((card) => html`<${Card} key=${card.feature} coder=${coder.id} card=${card} level="h2" onChange=${change} />`)}</div>`)}
      <${Pages} size=${LIMIT} total=${total} offset=${offset} address=${(to) => href("browse", coder.id, { ...route.value.params, offset: to })} onGo=${() => setTimeout(toTop)} />
    `}
  <//>`;
}

export function Browse() {
  const { params } = route.value;
  const coder = current.value;
  const byText = params.by === "text";
  return html`<div class="browse">
    <h1 tabindex="-1">Features <span class="muted">of <bdi>${coder.name}</bdi></span></h1>
    <${Search} params=${params} />
    ${byText
      ? html`<${ByText} coder=${coder} text=${params.text ?? ""} />`
      : html`<div class="bar">
            <${Filters} coder=${coder} params=${params} />
            <div class="fields">
              <${Select} label="sort" none=${null} options=${SORTS.filter(([key]) => key !== "relevance" || params.q)} value=${sortOf(params)} onPick=${(sort) => setParams({ sort, order: "", offset: "" })} />
              <${Select} label="order" none="usual" options=${[["asc", "up"], ["desc", "down"]]} value=${params.order} onPick=${(order) => setParams({ order, offset: "" })} />
              <${Segments} small name="as" legend="Show as" options=${[["cards", "cards"], ["table", "table"]]} value=${params.as ?? "cards"} onPick=${(as) => setParams({ as: as === "cards" ? "" : as })} />
            </div>
          </div>
          <${Found} coder=${coder} params=${params} />`}
  </div>`;
}
