// Every feature, found: by label, by meaning, by a text that it fires on; filtered, sorted, page by page.
import { html, useEffect, useRef, useState } from "../html.js";
import { coderPath, get, query } from "../api.js";
import { Card, Label, Outputs, Star } from "../card.js";
import { number, percent, whole } from "../numbers.js";
import { Loaded, useResource, useSettled } from "../resource.js";
import { featureHref, href, route, setParams } from "../route.js";
import { coder as current, trail } from "../state.js";
import { TokenStrip } from "../tokens.js";
import { ByText } from "./by_text.js";

const LIMIT = 30;
const FILTERS = ["form", "level", "min_density", "max_density", "min_score", "starred", "list"];
const SORTS = [
  ["relevance", "relevance"],
  ["density", "density"],
  ["max", "maximum"],
  ["score", "label score"],
  ["feature", "number"],
  ["label", "label"],
];
const WAYS = [
  ["label", "label", "Words in labels and output tokens, or a feature’s number"],
  ["meaning", "meaning", "A description; need not use the label’s words"],
  ["text", "text", "A sentence; finds what fires on it, unusually"],
];

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
    <fieldset class="segments">
      <legend class="sr">Search by</legend>
      ${WAYS.map(
        ([way, text]) => html`<label class=${by === way ? "on" : ""}>
          <input type="radio" name="by" value=${way} checked=${by === way} onChange=${() => setParams({ by: way === "label" ? "" : way, offset: "" }, false)} />by ${text}
        </label>`,
      )}
    </fieldset>
    ${by !== "text" && html`<input id="search" type="search" aria-label=${`Search features by ${by}`} placeholder=${hint} value=${typed} onInput=${(event) => setTyped(event.target.value)} />`}
  </form>`;
}

function Filters({ coder, params }) {
  const set = (key) => (event) => setParams({ [key]: event.target.type === "checkbox" ? event.target.checked : event.target.value, offset: "" });
  const lists = useResource("lists", (abort) => get("lists", abort));
  const active = FILTERS.filter((key) => params[key]).length;
  return html`<details class="filters" open=${active > 0 || innerWidth > 700}>
    <summary>Filters${active ? ` (${active})` : ""}</summary>
    <div class="fields">
      <label>form <select value=${params.form ?? ""} onChange=${set("form")}><option value="">any</option>${coder.forms.map((form) => html`<option value=${form}>${form}</option>`)}</select></label>
      ${coder.levels.length > 1 && html`<label>level <select value=${params.level ?? ""} onChange=${set("level")}><option value="">any</option>${coder.levels.map((_, level) => html`<option value=${String(level)}>${level}</option>`)}</select></label>`}
      <label>density ≥ <input type="number" min="0" max="1" step="any" value=${params.min_density ?? ""} onChange=${set("min_density")} placeholder="0" /></label>
      <label>density ≤ <input type="number" min="0" max="1" step="any" value=${params.max_density ?? ""} onChange=${set("max_density")} placeholder="1" /></label>
      <label>score ≥ <input type="number" min="0" max="1" step="0.05" value=${params.min_score ?? ""} onChange=${set("min_score")} placeholder="0" /></label>
      ${lists.data?.lists.length > 0 && html`<label>list <select value=${params.list ?? ""} onChange=${set("list")}><option value="">any</option>${lists.data.lists.map((list) => html`<option value=${list.name}>${list.name} (${list.count})</option>`)}</select></label>`}
      <label class="check"><input type="checkbox" checked=${params.starred === "1"} onChange=${set("starred")} /> starred</label>
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

function Pages({ total, offset }) {
  if (total <= LIMIT) return null;
  const page = Math.floor(offset / LIMIT);
  const last = Math.ceil(total / LIMIT) - 1;
  const link = (to, text, label) =>
    to < 0 || to > last || to === page
      ? html`<span class="button off" aria-disabled="true">${text}</span>`
      : html`<a class="button" href=${href("browse", current.value.id, { ...route.value.params, offset: to * LIMIT || "" })} aria-label=${label}>${text}</a>`;
  return html`<nav class="pages" aria-label="Pages">
    ${link(0, "« first", "First page")} ${link(page - 1, "‹ previous", "Previous page")}
    <span>page ${page + 1} of ${last + 1}</span>
    ${link(page + 1, "next ›", "Next page")} ${link(last, "last »", "Last page")}
  </nav>`;
}

function Found({ coder, params }) {
  const offset = Number(params.offset) || 0;
  const search = query({
    ...Object.fromEntries(["q", ...FILTERS].map((key) => [key, params[key]])),
    by: params.by ?? "label",
    sort: params.sort || (params.q ? "relevance" : "feature"),
    order: params.order || (params.sort && !["label", "feature"].includes(params.sort) ? "desc" : params.q && !params.sort ? "desc" : "asc"),
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
      <${Pages} total=${total} offset=${offset} />
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
              <label>sort <select value=${params.sort || (params.q ? "relevance" : "feature")} onChange=${(event) => setParams({ sort: event.target.value, order: "", offset: "" })}>
                ${SORTS.filter(([key]) => key !== "relevance" || params.q).map(([key, text]) => html`<option value=${key}>${text}</option>`)}
              </select></label>
              <label>order <select value=${params.order ?? ""} onChange=${(event) => setParams({ order: event.target.value, offset: "" })}><option value="">usual</option><option value="asc">up</option><option value="desc">down</option></select></label>
              <fieldset class="segments small">
                <legend class="sr">Show as</legend>
                ${["cards", "table"].map(
                  (as) => html`<label class=${(params.as ?? "cards") === as ? "on" : ""}><input type="radio" name="as" checked=${(params.as ?? "cards") === as} onChange=${() => setParams({ as: as === "cards" ? "" : as })} />${as}</label>`,
                )}
              </fieldset>
            </div>
          </div>
          <${Found} coder=${coder} params=${params} />`}
  </div>`;
}
