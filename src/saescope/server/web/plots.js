// Small charts as SVG. A chart is one tab stop; arrows walk its bars, and the line beneath tells the bar's value.
import { html, useState } from "./html.js";

/**
 * Bars [{label, value, base?, told}]; `base` draws a tick to compare with. `onOpen(i)` on click or Enter.
 * `said` is the one-sentence summary that names the chart.
 */
export function Bars({ bars, said, ticks = [], onOpen, openHint, height = 84, hint = "Arrow keys walk the bars." }) {
  const [at, setAt] = useState(-1);
  const [hover, setHover] = useState(-1);
  if (!bars.length) return html`<p class="muted">Nothing to plot.</p>`;
  const width = 320;
  const top = Math.max(...bars.map((bar) => Math.max(bar.value, bar.base ?? 0)), 1e-12);
  const step = width / bars.length;
  const shown = hover >= 0 ? hover : at;
  const y = (value) => height - (value / top) * (height - 2);
  const onKeyDown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const from = at < 0 ? bars.findIndex((bar) => bar.value === top) : at;
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: bars.length - 1 }[event.key];
    if (to !== undefined) setAt(Math.min(Math.max(to, 0), bars.length - 1));
    else if (event.key === "Enter" && onOpen && at >= 0) onOpen(at);
    else return;
    event.preventDefault();
  };
  const barAt = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    return Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * bars.length), 0), bars.length - 1);
  };
  return html`<figure class="chart">
    <div
      class="plot"
      tabindex="0"
      role="group"
      aria-roledescription="chart"
      aria-label=${`${said} ${hint}`}
      onKeyDown=${onKeyDown}
      onFocus=${() => at < 0 && setAt(bars.findIndex((bar) => bar.value === Math.max(...bars.map((one) => one.value))))}
      onBlur=${() => setAt(-1)}
    >
      <svg
        viewBox=${`0 0 ${width} ${height}`}
        preserveAspectRatio="none"
        aria-hidden="true"
        class=${onOpen ? "opens" : ""}
        onPointerMove=${(event) => setHover(barAt(event))}
        onPointerLeave=${() => setHover(-1)}
        onClick=${(event) => onOpen?.(barAt(event))}
      >
        <line class="axis" x1="0" x2=${width} y1=${height} y2=${height} />
        ${bars.map(
          (bar, i) => html`<g>
            <rect
              class=${i === shown ? "bar on" : "bar"}
              x=${i * step + Math.min(0.5, step / 8)}
              width=${Math.max(step - Math.min(1, step / 4), 0.5)}
              y=${y(bar.value)}
              height=${Math.max(height - y(bar.value), bar.value > 0 ? 1 : 0)}
            />
            ${bar.base !== undefined && html`<line class="base" x1=${i * step} x2=${(i + 1) * step} y1=${y(bar.base)} y2=${y(bar.base)} />`}
          </g>`,
        )}
      </svg>
    </div>
    <div class="ticks" aria-hidden="true">${ticks.map((tick) => html`<span>${tick}</span>`)}</div>
    <figcaption aria-live="polite">${shown >= 0 ? `${bars[shown].told}${onOpen && openHint ? ` · ${openHint}` : ""}` : html`<span class="muted">${said}</span>`}</figcaption>
  </figure>`;
}

/** A feature's value over the tokens of a text, as an area under a line; decoration beside a token strip that tells all. */
export function Trace({ values, max, selected = -1, onPick }) {
  const width = 1000;
  const height = 48;
  const step = width / Math.max(values.length, 1);
  const y = (value) => height - (max > 0 ? Math.min(value / max, 1) : 0) * (height - 2);
  const path = values.map((value, i) => `V${y(value).toFixed(1)}H${((i + 1) * step).toFixed(1)}`).join("");
  const pick = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    onPick?.(Math.min(values.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * values.length))));
  };
  return html`<svg class="trace" viewBox=${`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true" onClick=${pick}>
    ${selected >= 0 && html`<rect class="here" x=${selected * step} width=${Math.max(step, 2)} y="0" height=${height} />`}
    <path d=${`M0 ${height}${path}V${height}Z`} />
  </svg>`;
}
