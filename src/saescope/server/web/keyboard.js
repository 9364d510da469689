// Single-key commands. They rest while one types, in dialogs, and when a person has turned them off.
import { go, href, route } from "./route.js";
import { coder, helpOpen, keys, say, wantInstead } from "./state.js";
import { hideTip } from "./tokens.js";

export const COMMANDS = [
  ["/", "search; in prompt and compare, the text"],
  ["t", "type your own text under a feature"],
  ["j / k", "next / previous feature, row or card; where it fires in a document"],
  ["Enter", "open the feature in focus"],
  ["s", "star the feature"],
  ["g then o, b, p, c", "go to overview, browse, prompt, compare"],
  ["arrows, Home, End", "move over tokens, bars, the map"],
  ["Esc", "leave a box, close what is open"],
  ["?", "this help"],
];

const PLACES = { o: "overview", b: "browse", p: "prompt", c: "compare" };
let waitingForPlace = 0;

const typing = (element) => element.closest?.("textarea, select, [contenteditable], input:not([type=radio]):not([type=checkbox]):not([type=range])");

function search() {
  const box = document.querySelector("#search");
  if (box) {
    box.focus();
    box.select();
  } else {
    wantInstead("#search");
    go(href("browse", coder.peek()?.id));
  }
}

/** Next or previous: another feature on a feature's page, another firing in a document, another row or card elsewhere. */
function walk(direction) {
  if (["feature", "document"].includes(route.peek().view)) {
    document.querySelector(`.walk a[rel=${direction > 0 ? "next" : "prev"}]`)?.click();
    return;
  }
  const rows = [...document.querySelectorAll("main [data-feature]")].filter((row) => row.querySelector("a"));
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const next = at < 0 ? (direction > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + direction));
  rows[next].querySelector("a").focus();
  rows[next].scrollIntoView({ block: "nearest" });
}

function star() {
  const row = document.activeElement?.closest?.("[data-feature]");
  const button = (row ?? document.querySelector("main .feature-head"))?.querySelector(".star");
  if (button) button.click();
  else say("No feature in focus to star");
}

function onKeyDown(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape") {
    hideTip();
    if (typing(event.target)) event.target.blur();
    return;
  }
  if (typing(event.target) || document.querySelector("dialog[open]") || (keys.peek() === "off" && event.key !== "?")) return;
  const going = Date.now() - waitingForPlace < 1500;
  waitingForPlace = 0;
  if (going && PLACES[event.key]) go(href(PLACES[event.key], coder.peek()?.id));
  else if (event.key === "g") waitingForPlace = Date.now();
  else if (event.key === "/") search();
  else if (event.key === "t") document.querySelector("#try")?.focus();
  else if (event.key === "?") helpOpen.value = true;
  else if (event.key === "j") walk(1);
  else if (event.key === "k") walk(-1);
  else if (event.key === "s") star();
  else return;
  event.preventDefault();
}

export const listen = () => document.addEventListener("keydown", onKeyDown);
