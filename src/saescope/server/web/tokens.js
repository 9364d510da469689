// Tokens as people see them: coloured by value, walked by arrows, every value told on focus and on hover.
// Token text is untrusted: it only ever becomes text nodes, each isolated so that its direction stays its own.
import { html, signal, useRef, useState } from "./html.js";
import { number, percent } from "./numbers.js";
import { say } from "./state.js";

export const SHADES = 8;

/** 0 for nothing, else 1 … 8 by share of the feature's maximum. */
export const shade = (value, max) => (value > 0 && max > 0 ? Math.min(SHADES, Math.max(1, Math.ceil((SHADES * value) / max))) : 0);

// Joiners and selectors hold emoji and scripts together; they are not shown as marks.
const JOINERS = /[\u200c\u200d\ufe0e\ufe0f]/u;
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u2028\u2029\u00a0\u2000-\u200a\u3000\u3164\uffa0]/u;

/** Text with what can't be seen made visible: a newline as ↵, a tab as →, controls and direction marks by their code. */
export function visible(text) {
  if (text === "") return "∅";
  if (/^ +$/.test(text)) return "␣".repeat(text.length);
  let shown = "";
  for (const character of text) {
    if (character === "\n") shown += "↵";
    else if (character === "\t") shown += "→";
    else if (JOINERS.test(character) && text !== character) shown += character;
    else if (UNSEEN.test(character)) shown += `‹${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`;
    else shown += character;
  }
  return shown;
}

const RIGHT_TO_LEFT = /\p{Script=Hebrew}|\p{Script=Arabic}|\p{Script=Syriac}|\p{Script=Thaana}|\p{Script=Nko}|\p{Script=Adlam}/u;
const LETTERS = /\p{L}/u;

/** The direction of a run: of most of its tokens with letters. (`dir=auto` looks past isolated text, which all tokens are.) */
function direction(tokens) {
  let balance = 0;
  for (const { t } of tokens) balance += RIGHT_TO_LEFT.test(t) ? 1 : LETTERS.test(t) ? -1 : 0;
  return balance > 0 ? "rtl" : "ltr";
}

/** A token's text in a run: its leading space belongs to the run's direction, its letters to their own. */
function Text({ text }) {
  // Spaces alone keep their width, and a rule under them (`blank`) shows them.
  if (/^ +$/.test(text)) return text;
  if (!RIGHT_TO_LEFT.test(text)) return visible(text);
  const [, space, word] = text.match(/^( *)(.*)$/s);
  return html`${space}<bdi>${visible(word)}</bdi>`;
}

const breaks = (text) => (text.match(/\n/g) ?? []).length;

/** A token by itself, as in a list of output tokens. */
export const Token = ({ text }) => html`<bdi class="token-alone">${visible(text)}</bdi>`;

/** The floating value beside the token under the pointer or the focus. */
export const tip = signal(null);

export function Tip() {
  const { text, value, left, top, below } = tip.value ?? {};
  if (!tip.value) return null;
  return html`<div class=${below ? "tip below" : "tip"} aria-hidden="true" style=${{ left: `${left}px`, top: `${top}px` }}>
    <bdi>${text}</bdi> <span>${value}</span>
  </div>`;
}

function showTip(element, text, value) {
  const box = element.getClientRects()[0];
  if (!box) return;
  const below = box.top < 56;
  const left = Math.min(Math.max(box.left + box.width / 2, 90), innerWidth - 90);
  tip.value = { text, value, left, top: below ? box.bottom : box.top, below };
}
export const hideTip = () => (tip.value = null);
addEventListener("scroll", hideTip, { passive: true, capture: true });

/** The nearest token on the line above (-1) or below (+1). */
function onNextLine(spans, from, direction) {
  const start = spans[from].getBoundingClientRect();
  let best = from;
  let bestCost = Infinity;
  spans.forEach((span, i) => {
    const box = span.getBoundingClientRect();
    const rows = (box.top - start.top) * direction;
    if (rows < start.height / 2) return;
    const cost = rows * 1000 + Math.abs(box.left - start.left);
    if (cost < bestCost) [best, bestCost] = [i, cost];
  });
  return best;
}

/**
 * A run of tokens, one tab stop. `tokens` [{t, v, k}]; colours by v / `max`; the peak has a ring, so that it needs no colour.
 * With `onPick` tokens can be chosen (click, Enter) and `selected` is the chosen one.
 */
export function TokenStrip({ tokens, max, peak = -1, selected = -1, onPick, label, describe }) {
  const strip = useRef(null);
  const [at, setAt] = useState(-1);
  const home = at >= 0 && at < tokens.length ? at : selected >= 0 ? selected : Math.max(peak, 0);
  const last = tokens.length - 1;

  const told = (i) => {
    const { v, k } = tokens[i];
    if (describe) return describe(i);
    if (k === false) return "left out: no codes here";
    if (v === undefined || v === null) return "";
    return v > 0 ? `${number(v)}${max > 0 ? ` · ${percent(v / max)} of max` : ""}${i === peak ? " · peak" : ""}` : "0";
  };
  const indexOf = (event) => {
    const span = event.target.closest?.("[data-i]");
    return span && strip.current.contains(span) ? Number(span.dataset.i) : -1;
  };
  const move = (to) => {
    const next = Math.min(Math.max(to, 0), last);
    setAt(next);
    strip.current.querySelectorAll("[data-i]")[next].focus();
  };
  const onKeyDown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const i = indexOf(event);
    if (i < 0) return;
    const spans = () => [...strip.current.querySelectorAll("[data-i]")];
    const moves = {
      ArrowRight: () => i + 1,
      ArrowLeft: () => i - 1,
      ArrowDown: () => onNextLine(spans(), i, 1),
      ArrowUp: () => onNextLine(spans(), i, -1),
      Home: () => 0,
      End: () => last,
    };
    if (moves[event.key]) move(moves[event.key]());
    else if (onPick && (event.key === "Enter" || event.key === " ")) onPick(i);
    else return;
    event.preventDefault();
  };
  const onFocus = (event) => {
    const i = indexOf(event);
    if (i < 0) return;
    setAt(i);
    showTip(event.target, visible(tokens[i].t), told(i));
    say(`${visible(tokens[i].t)}: ${told(i) || "no value"}`);
  };
  const onOver = (event) => {
    const i = indexOf(event);
    if (i >= 0) showTip(event.target.closest("[data-i]"), visible(tokens[i].t), told(i));
  };
  const onClick = (event) => {
    const i = indexOf(event);
    if (i < 0) return;
    setAt(i);
    if (onPick) onPick(i);
  };
  return html`<div
    ref=${strip}
    class=${onPick ? "strip pickable" : "strip"}
    dir=${direction(tokens)}
    role=${onPick ? "listbox" : "group"}
    aria-label=${label}
    aria-orientation=${onPick ? "horizontal" : undefined}
    onKeyDown=${onKeyDown}
    onFocusIn=${onFocus}
    onFocusOut=${hideTip}
    onPointerOver=${onOver}
    onPointerLeave=${hideTip}
    onClick=${onClick}
  >
    ${tokens.map((token, i) => {
      const classes = ["tok", `s${shade(token.v, max)}`];
      if (i === peak) classes.push("peak");
      if (token.k === false) classes.push("left-out");
      if (i === selected) classes.push("chosen");
      const blank = /^ +$/.test(token.t);
      if (blank) classes.push("blank");
      const lines = breaks(token.t);
      if (lines) classes.push(lines > 1 ? "breaks" : "break");
      // What is coloured stays whole where it may: a line breaks before its leading space, not after.
      const whole = (token.v > 0 || i === peak || i === selected) && !lines && token.t.length < 24;
      if (whole) classes.push("whole");
      return html`${whole && token.t.startsWith(" ") && html`<wbr />`}<span
        class=${classes.join(" ")}
        data-i=${i}
        tabindex=${i === home ? 0 : -1}
        role=${onPick ? "option" : undefined}
        aria-label=${onPick && blank ? "space" : undefined}
        aria-selected=${onPick ? (i === selected ? "true" : "false") : undefined}
        ><${Text} text=${token.t} /></span
      >`;
    })}
  </div>`;
}

/** The colour scale, told. */
export function Scale({ max }) {
  return html`<p class="scale">
    <span>0</span>
    <span class="swatches" aria-hidden="true">${Array.from({ length: SHADES }, (_, i) => html`<i class=${`s${i + 1}`}></i>`)}</span>
    <span>${number(max)} <span class="muted">(this feature’s maximum)</span></span>
  </p>`;
}
