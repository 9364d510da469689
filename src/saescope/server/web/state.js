// What several views share: the workspace, the coder in use, theme, what is said to screen readers, the list being walked.
import { computed, effect, signal } from "./html.js";
import { get, returns } from "./api.js";
import { route } from "./route.js";

export const workspace = signal(null);
export const workspaceError = signal(null);

export async function loadWorkspace() {
  try {
    workspace.value = await get("workspace");
    workspaceError.value = null;
  } catch (error) {
    workspaceError.value = error;
  }
}
effect(() => void (returns.value && loadWorkspace()));

/** The coder that the address names, else the workspace's first. */
export const coder = computed(() => {
  const coders = workspace.value?.coders ?? [];
  const named = route.value.coder;
  return named === null ? (coders[0] ?? null) : (coders.find((one) => one.id === named) ?? null);
});

// Kept in the browser; storage may be forbidden, and then lasts as long as the page.
function remembered(key, fallback) {
  let value = fallback;
  try {
    value = localStorage.getItem(`saescope.${key}`) ?? fallback;
  } catch {}
  const kept = signal(value);
  kept.subscribe((now) => {
    try {
      localStorage.setItem(`saescope.${key}`, now);
    } catch {}
  });
  return kept;
}

export const theme = remembered("theme", "auto");
effect(() => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
});

/** "on" or "off": people who dictate or miskey can turn single-key commands off. */
export const keys = remembered("keys", "on");

const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(darkSystem.matches);
darkSystem.addEventListener("change", (event) => (systemIsDark.value = event.matches));
export const isDark = computed(() => theme.value === "dark" || (theme.value === "auto" && systemIsDark.value));

/** Said by the live region. */
export const said = signal("");
export const say = (text) => (said.value = text);

// Someone who walks with the keyboard lands on the new view's title, once it is there, or on what was asked for.
let titleWanted = false;
let target = "main h1";
export const wantTitle = () => (titleWanted = true);
export const wantInstead = (selector) => (target = selector);
export function focusTitle(instead) {
  if (!titleWanted) return;
  (instead ?? document.querySelector(target))?.focus({ preventScroll: true });
  titleWanted = false;
  target = "main h1";
}

/** The features that `j` and `k` walk: {coder, features, name, back}. */
export const trail = signal(null);
export const helpOpen = signal(false);
