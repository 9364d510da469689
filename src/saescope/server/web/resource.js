// What a view shows while something loads, when it fails, and once it is there.
import { html, useEffect, useState } from "./html.js";
import { returns } from "./api.js";

/**
 * Load by key; a new key loads anew and what was there stays shown (`stale`) until then. A null key loads nothing.
 * `set` replaces the data after a change that the server confirmed, unless something else is shown by then.
 */
export function useResource(key, load) {
  const [state, setState] = useState({ key: null, data: undefined, error: null });
  const [turn, setTurn] = useState(0);
  const revived = returns.value;
  const shown = state.key;
  useEffect(() => {
    if (key === null) {
      setState({ key: null, data: undefined, error: null });
      return undefined;
    }
    const abort = new AbortController();
    load(abort.signal).then(
      (data) => !abort.signal.aborted && setState({ key, data, error: null }),
      (error) => !abort.signal.aborted && setState((old) => ({ key, data: old.key === key ? old.data : undefined, error })),
    );
    return () => abort.abort();
  }, [key, turn, revived]);
  return {
    data: key === null ? undefined : state.data,
    error: state.key === key ? state.error : null,
    stale: key !== null && state.key !== key,
    loading: key !== null && state.key !== key,
    reload: () => setTurn((n) => n + 1),
    set: (change) => setState((old) => (old.key === shown ? { ...old, data: change(old.data) } : old)),
  };
}

/** `value`, once it has stayed the same for `wait` milliseconds. */
export function useSettled(value, wait = 350) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), wait);
    return () => clearTimeout(timer);
  }, [value, wait]);
  return settled;
}

export function Problem({ error, retry }) {
  // What the server refuses, as a feature that doesn't exist, it would refuse again.
  const refused = error.status >= 400 && error.status < 500;
  return html`<p class="problem" role="alert">
    <span>${error.message}</span>
    ${retry && !refused && html`<button type="button" class="quiet" onClick=${retry}>Try again</button>`}
  </p>`;
}

export const Loading = ({ what }) => html`<p class="loading" role="status">Loading ${what}…</p>`;

/** The resource's problem or loading line, else what `children` makes of its data. */
export function Loaded({ resource, what, children }) {
  const { data, error, loading, stale, reload } = resource;
  if (error && data === undefined) return html`<${Problem} error=${error} retry=${reload} />`;
  if (data === undefined) return loading ? html`<${Loading} what=${what} />` : null;
  return html`<div class="loaded" aria-busy=${stale ? "true" : undefined}>
    ${error && html`<${Problem} error=${error} retry=${reload} />`}${children(data)}
  </div>`;
}
