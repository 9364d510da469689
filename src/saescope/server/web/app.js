// The page: header, the view that the address names, and what is said and shown above all views.
import { html, render, useEffect, useRef } from "./html.js";
import { away, tryAgain } from "./api.js";
import { Jobs } from "./jobs.js";
import { COMMANDS, listen } from "./keyboard.js";
import { Loading, Problem } from "./resource.js";
import { go, href, returned, route } from "./route.js";
import { coder, focusTitle, helpOpen, keys, loadWorkspace, said, theme, wantTitle, workspace, workspaceError } from "./state.js";
import { hideTip, Tip } from "./tokens.js";
import { Browse } from "./views/browse.js";
import { Compare } from "./views/compare.js";
import { Document } from "./views/document.js";
import { Feature } from "./views/feature.js";
import { Overview } from "./views/overview.js";
import { Prompt } from "./views/prompt.js";

const VIEWS = { overview: Overview, browse: Browse, feature: Feature, prompt: Prompt, compare: Compare, document: Document };
// Of one feature, or one document: such a view names itself, and has its title with its data.
const UNDER_BROWSE = ["feature", "document"];
const TABS = [
  ["overview", "Overview"],
  ["browse", "Browse"],
  ["prompt", "Prompt"],
  ["compare", "Compare"],
];
const THEMES = { auto: ["◐", "as the system", "light"], light: ["☀", "light", "dark"], dark: ["☾", "dark", "auto"] };

function Header() {
  const { view } = route.value;
  const chosen = coder.value;
  const coders = workspace.value?.coders ?? [];
  const [sign, name, next] = THEMES[theme.value] ?? THEMES.auto;
  return html`<header class="top">
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), document.querySelector("main").focus())}>Skip to content</a>
    <a class="brand" href=${href("overview", chosen?.id)}>saescope</a>
    <nav aria-label="Views">
      ${TABS.map(([key, text]) => html`<a href=${href(key, chosen?.id)} aria-current=${view === key || (UNDER_BROWSE.includes(view) && key === "browse") ? "page" : undefined}>${text}</a>`)}
    </nav>
    <div class="top-right">
      ${coders.length > 1 &&
      html`<select aria-label="Coder" value=${chosen?.id} onChange=${(event) => go(href(UNDER_BROWSE.includes(view) ? "browse" : view, event.target.value))}>
        ${coders.map((one) => html`<option value=${one.id}>${one.name}</option>`)}
      </select>`}
      <button type="button" class="quiet" onClick=${() => (theme.value = next)} aria-label=${`Colours: ${name}. Change to ${THEMES[next][1]}.`} title=${`Colours: ${name}`}><span aria-hidden="true">${sign}</span></button>
      <button type="button" class="quiet" onClick=${() => (helpOpen.value = true)} aria-label="Keyboard help" title="Keyboard help (?)">?</button>
    </div>
  </header>`;
}

function Help() {
  const dialog = useRef(null);
  const open = helpOpen.value;
  useEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
    if (!open && dialog.current.open) dialog.current.close();
  }, [open]);
  return html`<dialog ref=${dialog} aria-labelledby="help-title" onClose=${() => (helpOpen.value = false)} onClick=${(event) => event.target === dialog.current && (helpOpen.value = false)}>
    <div class="help">
      <h2 id="help-title">Keys</h2>
      <dl class="pairs">${COMMANDS.map(([key, text]) => html`<dt><kbd>${key}</kbd></dt><dd>${text}</dd>`)}</dl>
      <p><label class="check"><input type="checkbox" checked=${keys.value === "on"} onChange=${(event) => (keys.value = event.target.checked ? "on" : "off")} /> single-key commands</label></p>
      <p class="muted small-text">saescope ${workspace.value?.version} · model ${workspace.value?.model?.name ?? "none"}${workspace.value?.model?.loaded ? "" : " (not loaded yet)"}</p>
      <p class="actions"><button type="button" onClick=${() => (helpOpen.value = false)}>Close</button></p>
    </div>
  </dialog>`;
}

function Away() {
  if (!away.value) return null;
  const { seconds } = away.value;
  return html`<div class="away" role="alert">
    <span>The server does not answer. ${seconds ? html`<span aria-hidden="true">Trying again in ${seconds} s.</span>` : "Trying again…"}</span>
    <button type="button" class="quiet" onClick=${tryAgain}>Try now</button>
  </div>`;
}

/** To the top, or to where a page was left: as soon as it is as long again, or as near as it is after a while. */
function scrollBack(to) {
  scrollTo(0, to ?? 0);
  if (!to) return;
  const started = performance.now();
  const step = (now) => {
    if (returned.to !== to || now - started > 1500) return;
    scrollTo(0, to);
    if (scrollY < to - 1) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function Main() {
  const { view, coder: named, [view]: number } = route.value;
  const main = useRef(null);
  const before = useRef(null);
  const place = `${view}/${named}/${number}`;
  useEffect(() => {
    hideTip();
    const own = UNDER_BROWSE.includes(view);
    // The first view leaves the focus to the browser.
    if (before.current !== null && before.current !== place) {
      scrollBack(returned.to);
      wantTitle();
      if (!own) focusTitle();
    }
    before.current = place;
    if (!own) document.title = `${TABS.find(([key]) => key === view)[1]} · saescope`;
  }, [place]);
  const ready = workspace.value;
  const View = VIEWS[view];
  return html`<main id="main" ref=${main} tabindex="-1">
    ${!ready
      ? html`<h1 tabindex="-1" class="sr">saescope</h1>
          ${workspaceError.value ? html`<${Problem} error=${workspaceError.value} retry=${loadWorkspace} />` : html`<${Loading} what="the workspace" />`}`
      : !ready.coders.length
        ? html`<h1 tabindex="-1">Nothing indexed yet</h1><p>Build an index with <code>saescope index</code>, then reload this page.</p>`
        : !coder.value
          ? html`<h1 tabindex="-1">No such coder</h1><p class="problem"><span>This workspace has no coder <bdi>${named}</bdi>.</span> <a href="#/">Overview</a></p>`
          : html`<${View} key=${`${view}/${coder.value.id}`} />`}
  </main>`;
}

function App() {
  return html`<${Header} /><${Away} /><${Jobs} /><${Main} /><${Help} /><${Tip} />
    <div class="sr" role="status" aria-live="polite" id="said">${said.value}</div>`;
}

listen();
loadWorkspace();
const root = document.querySelector("#app");
root.textContent = "";
render(html`<${App} />`, root);
