// The address is the state: `#/c/CODER/VIEW/NUMBER?key=value`, the number being a feature's or a document's. A link restores what
// its sender saw.
import { signal } from "./html.js";

export const VIEWS = ["overview", "browse", "feature", "prompt", "compare", "document"];
const NUMBERED = ["feature", "document"];

function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const parts = path.split("/").map(decode);
  const params = Object.fromEntries(new URLSearchParams(query));
  if (parts[0] !== "c" || !parts[1]) return { view: "overview", coder: null, params };
  const view = VIEWS.includes(parts[2]) ? parts[2] : "overview";
  if (!NUMBERED.includes(view)) return { view, coder: parts[1], params };
  return /^\d+$/.test(parts[3] ?? "") ? { view, coder: parts[1], [view]: Number(parts[3]), params } : { view: "browse", coder: parts[1], params };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const route = signal(parse(location.hash));

// Where each entry of the history was scrolled to. An entry has a mark once it has been left or made here; going back to a marked
// one goes back to its place, once what was there is there again.
const places = new Map();
let mark = 0;
let here = history.state?.mark ?? null;
export const returned = { to: null };
history.scrollRestoration = "manual";

function stamp() {
  mark = Math.max(mark + 1, Date.now());
  here = mark;
  return { mark };
}
if (here === null) history.replaceState(stamp(), "");
addEventListener("scroll", () => places.set(here, scrollY), { passive: true });

addEventListener("popstate", (event) => {
  const back = event.state?.mark ?? null;
  returned.to = back === null ? null : (places.get(back) ?? null);
  if (back === null) history.replaceState(stamp(), "");
  else here = back;
  route.value = parse(location.hash);
});

/** The address of a view; empty parameters are left out. The one of the view's own name is the number in the path. */
export function href(view, coder, { [view]: numbered, ...params } = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  const query = new URLSearchParams(kept.map(([key, value]) => [key, value === true ? "1" : String(value)])).toString();
  let path = "#/";
  if (coder) path += `c/${encodeURIComponent(coder)}/${view}`;
  if (numbered !== undefined && numbered !== null) path += `/${numbered}`;
  return query ? `${path}?${query}` : path;
}

export const featureHref = (coder, feature, params) => href("feature", coder, { feature, ...params });

/** Go to an address; with `replace` without a step in the history (typing, sliding). */
export function go(address, replace = false) {
  if (address === location.hash) return;
  try {
    if (replace) history.replaceState(history.state, "", address);
    else history.pushState(stamp(), "", address);
  } catch {
    // Some browsers allow so many changes a minute: the view changes, the address catches up with the next one.
  }
  returned.to = null;
  route.value = parse(address);
}

/** Change some parameters of the present address. */
export function setParams(patch, replace = true) {
  const { view, coder, params, ...number } = route.peek();
  go(href(view, coder, { ...params, ...number, ...patch }), replace);
}
