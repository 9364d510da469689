// Controls that several views have.
import { html } from "./html.js";

/** One of a few, as a row of radio buttons: `options` [[value, text]]. */
export const Segments = ({ name, legend, options, value, onPick, small }) => html`<fieldset class=${small ? "segments small" : "segments"}>
  <legend class="sr">${legend}</legend>
  ${options.map(([key, text]) => html`<label class=${key === value ? "on" : ""}><input type="radio" name=${name} value=${key} checked=${key === value} onChange=${() => onPick(key)} />${text}</label>`)}
</fieldset>`;

/** A box for text that a model will read. */
export const TextBox = ({ id, rows = 3, label, placeholder, value, onText }) =>
  html`<textarea id=${id} rows=${rows} dir="auto" maxlength="20000" aria-label=${label} placeholder=${placeholder ?? label} value=${value} onInput=${(event) => onText(event.target.value)}></textarea>`;

/** Choices with an empty one first, which stands for no choice. */
export const Select = ({ label, none = "any", options, value, onPick }) => html`<label>${label} <select value=${value ?? ""} onChange=${(event) => onPick(event.target.value)}>
  ${none !== null && html`<option value="">${none}</option>`}${options.map(([key, text]) => html`<option value=${key}>${text}</option>`)}
</select></label>`;

/** Links to the first, previous, next and last of pages of `size`; `address(offset)`. Nothing where there is one. */
export function Pages({ name = "Pages", size, total, offset, address, onGo }) {
  if (total <= size) return null;
  const page = Math.floor(offset / size);
  const last = Math.ceil(total / size) - 1;
  const link = (to, text, label) =>
    to < 0 || to > last || to === page
      ? html`<span class="button off" aria-disabled="true">${text}</span>`
      : html`<a class="button" href=${address(to * size || "")} aria-label=${label} onClick=${onGo}>${text}</a>`;
  return html`<nav class="pages" aria-label=${name}>
    ${link(0, "« first", "First page")} ${link(page - 1, "‹ previous", "Previous page")}
    <span>page ${page + 1} of ${last + 1}</span>
    ${link(page + 1, "next ›", "Next page")} ${link(last, "last »", "Last page")}
  </nav>`;
}

/** To the previous or the next of what `j` and `k` walk; without `href` there is none. */
export function Step({ href, rel, label }) {
  const [text, letter] = rel === "next" ? ["Next ›", "j"] : ["‹ Previous", "k"];
  return href
    ? html`<a class="button" rel=${rel} href=${href} aria-label=${label} aria-keyshortcuts=${letter} title=${`${label} (${letter})`}>${text}</a>`
    : html`<span class="button off" aria-disabled="true">${text}</span>`;
}
