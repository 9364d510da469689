// A document as the index has it: its text a page at a time, coloured by a feature, and where else in it that feature fires.
import { html, useEffect, useRef } from "../html.js";
import { coderPath, get, query } from "../api.js";
import { FeatureLink } from "../card.js";
import { Pages, Step } from "../controls.js";
import { number, whole } from "../numbers.js";
import { Bars } from "../plots.js";
import { Loaded, useResource } from "../resource.js";
import { go, href, returned, route, setParams } from "../route.js";
import { coder as current, focusTitle, wantTitle } from "../state.js";
import { Scale, TokenStrip } from "../tokens.js";
import { At } from "../feature/position.js";

const LIMIT = 2000;
const BEGINS = { page: "…", sequence: "new sequence: the model starts anew", gap: "gap: text that is not in the index" };
const pageOf = (place) => Math.floor(place / LIMIT);
const wholeNumber = (text) => (/^\d+$/.test(text ?? "") ? Number(text) : undefined);

/** Where the feature fires nearest before and after the token in view: on this page as its tokens have it, beyond it as told. */
function nearest(data, at) {
  const tokens = data.stretches.flatMap((stretch) => stretch.tokens);
  const here = at === undefined ? -1 : tokens.findIndex((token) => token.p >= at);
  const fires = (token) => token.v > 0;
  const ahead = tokens.slice(here + 1).find(fires);
  const behind = here > 0 ? tokens.slice(0, here).findLast(fires) : undefined;
  return { previous: behind?.p ?? data.firings.previous?.position, next: ahead?.p ?? data.firings.next?.position };
}

/** Always in view: the text scrolls under it. */
function Walk({ data, at, address }) {
  const { previous, next } = nearest(data, at);
  const to = (position) => (position === undefined ? null : address({ at: position }));
  return html`<nav class="walk" aria-label="Where it fires">
    <${Step} href=${to(previous)} rel="prev" label="Previous token on which it fires" />
    <span class="muted">${(previous ?? next) !== undefined ? "where it fires" : "nowhere else here"}</span>
    <${Step} href=${to(next)} rel="next" label="Next token on which it fires" />
  </nav>`;
}

function Firings({ data, at, address }) {
  const { here, total, next, strongest, part, parts } = data.firings;
  const { feature, label, max } = data.feature;
  const bars = parts.map((value, i) => ({ value, told: `tokens ${whole(i * part)} to ${whole(Math.min((i + 1) * part, data.length) - 1)}: fires on ${whole(value)}` }));
  return html`<section class="firings" aria-label="Where the feature fires in this document">
    <div class="line">
      <span>coloured by <${FeatureLink} coder=${current.value.id} feature=${feature} label=${label} /></span>
      <a href=${address({ feature: "", at, offset: route.value.params.offset })}>no colours</a>
    </div>
    <p role="status">fires on ${whole(here)} ${here === 1 ? "token" : "tokens"} here, ${whole(total)} in the whole document${next && html`; next: <a href=${address({ at: next.position })}>page ${pageOf(next.place) + 1}</a>`}</p>
    ${parts.length > 1 && total > 0 && html`<${Bars} bars=${bars} ticks=${["0", whole(data.length)]} height=${44} said=${`Tokens on which it fires, by ${part === LIMIT ? "page" : `${whole(part)} tokens`}.`} onOpen=${(i) => go(address({ offset: i * part || "" }))} openHint="click or Enter to go there" />`}
    <div class="line">
      <${Scale} max=${max} />
      ${strongest && html`<a href=${address({ at: strongest.position })}>strongest here: ${number(strongest.value)}</a>`}
    </div>
  </section>`;
}

function Stretch({ coder, data, stretch, at, picked }) {
  const { tokens } = stretch;
  // A character of several tokens has the position of its last.
  const has = (position) => (position === undefined ? -1 : tokens.findIndex((token) => token.p >= position));
  const chosen = picked === undefined ? -1 : tokens.findIndex((token) => token.p === picked);
  const told = data.feature === null ? (i) => (tokens[i].k === false ? "left out: no codes here" : "") : undefined;
  return html`<div class="stretch">
    ${BEGINS[stretch.begins] && html`<p class="begins muted">${BEGINS[stretch.begins]}</p>`}
    <${TokenStrip} tokens=${tokens} max=${data.feature?.max ?? 0} peak=${has(at)} selected=${chosen} describe=${told} onPick=${(i) => setParams({ token: i === chosen ? "" : tokens[i].p })} label=${`Tokens from ${whole(stretch.place)}`} />
    ${chosen >= 0 && html`<${At} coder=${coder} position=${picked} />`}
  </div>`;
}

function Page({ coder, data, at, picked, address }) {
  const ringed = at === undefined ? -1 : data.stretches.findIndex((stretch) => stretch.tokens.at(-1).p >= at && stretch.tokens[0].p <= at + 3);
  const last = data.offset + LIMIT >= data.length;
  const pages = (name) => html`<${Pages} name=${name} size=${LIMIT} total=${data.length} offset=${data.offset} address=${(offset) => address({ offset })} />`;
  return html`
    ${data.firings && html`<${Firings} data=${data} at=${at} address=${address} />`}
    ${pages("Pages")}
    <div class="reading">
      ${data.stretches.map((stretch, i) => html`<${Stretch} key=${stretch.place} coder=${coder} data=${data} stretch=${stretch} at=${i === ringed ? at : undefined} picked=${picked} />`)}
      ${data.length === 0 && html`<p class="muted">None of this document is in the index.</p>`}
      ${last && data.whole > data.length && data.length > 0 && html`<p class="begins muted">gap: the last ${whole(data.whole - data.length)} tokens of the document are not in the index</p>`}
      ${data.firings && html`<${Walk} data=${data} at=${at} address=${address} />`}
    </div>
    ${pages("Pages, below")}
  `;
}

export function Document() {
  const { document: number, params } = route.value;
  const coder = current.value;
  const feature = wholeNumber(params.feature);
  const at = wholeNumber(params.at);
  const offset = at === undefined ? wholeNumber(params.offset) : undefined;
  const asked = query({ feature, at, offset, limit: LIMIT });
  // Going on to a place on the page that is there loads nothing.
  const page = useRef(null);
  const has = ({ tokens }) => tokens[0].p <= at && at <= tokens.at(-1).p;
  const there = at !== undefined && page.current?.document.index === number && page.current.feature?.feature === feature && page.current.stretches.some(has);
  const key = `${coder.id}/${number}?${there ? page.current.asked : asked}`;
  const resource = useResource(key, async (abort) => ({ asked, ...(await get(coderPath(coder.id, `documents/${number}?${asked}`), abort)) }));
  const { data } = resource;
  const ready = data !== undefined && !resource.stale;
  if (ready) page.current = data;
  const title = data?.document.title || "untitled";
  const address = (change) => href("document", coder.id, { document: number, feature, ...change });

  useEffect(() => {
    if (ready) document.title = `${title} · saescope`;
  }, [ready, title]);
  // The place that was asked for comes into the middle, with the focus; back finds the page as it was left.
  const shown = useRef(null);
  useEffect(() => {
    if (!ready && !resource.error) return;
    const place = `${number} ${at ?? `from ${offset}`}`;
    if (shown.current === place) return;
    const first = shown.current === null;
    shown.current = place;
    const ring = at === undefined ? null : document.querySelector("main .tok.peak");
    if (ring && !(first && returned.to !== null)) ring.scrollIntoView({ block: "center" });
    else if (!first) scrollTo(0, 0);
    if (!first) wantTitle();
    focusTitle(ring);
  }, [ready, resource.error, number, at, offset]);

  return html`<div class="document">
    <h1 tabindex="-1"><bdi>${ready || data ? title : `Document ${number}`}</bdi></h1>
    <${Loaded} resource=${resource} what="the document">
      ${(loaded) => html`
        <p class="under"><span>${whole(loaded.length)} tokens</span>${loaded.document.source && html`<span><bdi>${loaded.document.source}</bdi></span>`}${loaded.split && html`<span class="chip">${loaded.split}</span>`}</p>
        <${Page} coder=${coder} data=${loaded} at=${at} picked=${wholeNumber(params.token)} address=${address} />`}
    <//>
  </div>`;
}
