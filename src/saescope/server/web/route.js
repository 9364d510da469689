// The address is the state: `#/c/CODER/VIEW/FEATURE?key=value`. A link restores what its sender saw.
import { signal } from "./html.js";

export const VIEWS = ["overview", "browse", "feature", "prompt", "compare"];

function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const parts = path.split("/").map(decode);
  const params = Object.fromEntries(new URLSearchParams(query));
  if (parts[0] !== "c" || !parts[1]) return { view: "overview", coder: null, feature: null, params };
  const view = VIEWS.includes(parts[2]) ? parts[2] : "overview";
  const feature = view === "feature" && /^\d+$/.test(parts[3] ?? "") ? Number(parts[3]) : null;
  return { view: view === "feature" && feature === null ? "browse" : view, coder: parts[1], feature, params };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const route = signal(parse(location.hash));

const arrive = () => (route.value = parse(location.hash));
addEventListener("hashchange", arrive);
addEventListener("popstate", arrive);

/** The address of a view; empty parameters are left out. */
export function href(view, coder, { feature, ...params } = {}) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  const query = new URLSearchParams(kept.map(([key, value]) => [key, value === true ? "1" : String(value)])).toString();
  let path = "#/";
  if (coder) path += `c/${encodeURIComponent(coder)}/${view}`;
  if (feature !== undefined && feature !== null) path += `/${feature}`;
  return query ? `${path}?${query}` : path;
}

export const featureHref = (coder, feature, params) => href("feature", coder, { feature, ...params });

/** Go to an address; with `replace` without a step in the history (typing, sliding). */
export function go(address, replace = false) {
  if (address === location.hash) return;
  try {
    history[replace ? "replaceState" : "pushState"](null, "", address);
  } catch {
    // Some browsers allow so many changes a minute: the view changes, the address catches up with the next one.
  }
  route.value = parse(address);
}

/** Change some parameters of the present address. */
export function setParams(patch, replace = true) {
  const { view, coder, feature, params } = route.peek();
  go(href(view, coder, { feature: feature ?? undefined, ...params, ...patch }), replace);
}
