// The map: every feature a point at its decoder direction's place in two dimensions. Canvas, because there are up to 50,000.
import { html, useEffect, useMemo, useRef, useState } from "./html.js";
import { featurePath, get } from "./api.js";
import { labelText } from "./card.js";
import { percent } from "./numbers.js";
import { featureHref, go } from "./route.js";
import { isDark, say } from "./state.js";

// Twelve hues that can be told apart on both backgrounds (contrast ≥ 3 with each); a family's is its number modulo twelve.
const HUES = {
  light: ["#0b5cad", "#b5480b", "#1a7a3c", "#8a3ab9", "#b3261e", "#00707a", "#7a5c00", "#c2187a", "#4b5bd1", "#5c6b00", "#944a6b", "#5a6270"],
  dark: ["#6cb0ff", "#ff9d5c", "#5fd08a", "#cf9bff", "#ff8a80", "#4fd3e0", "#e5c04a", "#ff85c8", "#a3adff", "#b7cc4a", "#e09ab9", "#aab2bf"],
};

const COLOURINGS = [
  ["form", "form"],
  ["family", "family"],
  ["density", "density"],
];

/** Points in the unit square, and a grid of buckets for finding the nearest. */
function prepare({ x, y }) {
  const finite = (values) => values.filter(Number.isFinite);
  const span = (values) => {
    const sorted = Float64Array.from(finite(values)).sort();
    return [sorted[0] ?? 0, sorted[sorted.length - 1] ?? 1];
  };
  const [x0, x1] = span(x);
  const [y0, y1] = span(y);
  const size = Math.max(x1 - x0, y1 - y0) || 1;
  const shape = [(x1 - x0) / size || 1, (y1 - y0) / size || 1];
  const px = Float32Array.from(x, (value) => (value - (x0 + x1) / 2) / size + 0.5);
  const py = Float32Array.from(y, (value) => 0.5 - (value - (y0 + y1) / 2) / size);
  const cells = 64;
  const buckets = new Map();
  const cell = (value) => Math.min(cells - 1, Math.max(0, Math.floor(value * cells)));
  for (let i = 0; i < px.length; i += 1) {
    const key = cell(px[i]) + cells * cell(py[i]);
    if (!buckets.has(key)) buckets.set(key, []);
    buckets.get(key).push(i);
  }
  /** Index of the point nearest to (u, v) within `reach`, or -1. */
  const nearest = (u, v, reach) => {
    let best = -1;
    let bestSquare = reach * reach;
    for (let a = cell(u - reach); a <= cell(u + reach); a += 1) {
      for (let b = cell(v - reach); b <= cell(v + reach); b += 1) {
        for (const i of buckets.get(a + cells * b) ?? []) {
          const square = (px[i] - u) ** 2 + (py[i] - v) ** 2;
          if (square <= bestSquare) [best, bestSquare] = [i, square];
        }
      }
    }
    return best;
  };
  /** The nearest point in a direction, for arrow keys: distance along it plus twice the distance aside. */
  const towards = (from, dx, dy) => {
    let best = from;
    let bestCost = Infinity;
    for (let i = 0; i < px.length; i += 1) {
      const along = (px[i] - px[from]) * dx + (py[i] - py[from]) * dy;
      if (i === from || along <= 1e-7) continue;
      const aside = Math.abs((px[i] - px[from]) * dy) + Math.abs((py[i] - py[from]) * dx);
      if (aside > along) continue;
      const cost = along + 2 * aside;
      if (cost < bestCost) [best, bestCost] = [i, cost];
    }
    return best;
  };
  return { px, py, shape, nearest, towards };
}

export function FeatureMap({ coder, points, forms, height = 420 }) {
  const canvas = useRef(null);
  const frame = useRef({ scale: 1, left: 0, top: 0 });
  const drag = useRef(null);
  const [at, setAt] = useState(-1);
  const [focused, setFocused] = useState(false);
  const [colouring, setColouring] = useState(forms.length ? "form" : "density");
  const [name, setName] = useState("");
  const [, redraw] = useState(0);
  const dark = isDark.value;
  const { px, py, shape, nearest, towards } = useMemo(() => prepare(points), [points]);
  const hues = HUES[dark ? "dark" : "light"];

  const hueOf = useMemo(() => {
    if (colouring === "form") return Int8Array.from(points.form, (form) => Math.max(forms.indexOf(form), 0) % 12);
    if (colouring === "family") return Int8Array.from(points.family, (family) => (family < 0 ? 11 : family % 11));
    return Int8Array.from(points.density, (density) => Math.min(4, Math.max(0, Math.floor(Math.log10(density || 1e-9) + 5))));
  }, [points, colouring, forms]);

  const place = () => {
    const { clientWidth: width, clientHeight: tall } = canvas.current;
    const size = Math.min(width / shape[0], tall / shape[1]) * 0.94;
    const { scale, left, top } = frame.current;
    return {
      size: size * scale,
      x: (u) => width / 2 + (u - 0.5) * size * scale + left,
      y: (v) => tall / 2 + (v - 0.5) * size * scale + top,
      u: (sx) => (sx - width / 2 - left) / (size * scale) + 0.5,
      v: (sy) => (sy - tall / 2 - top) / (size * scale) + 0.5,
    };
  };

  useEffect(() => {
    const draw = () => {
      const element = canvas.current;
      if (!element) return;
      const ratio = devicePixelRatio || 1;
      element.width = element.clientWidth * ratio;
      element.height = element.clientHeight * ratio;
      const paint = element.getContext("2d");
      paint.scale(ratio, ratio);
      const { x, y } = place();
      const dot = Math.min(7, Math.max(1.4, (260 / Math.sqrt(px.length + 2500)) * Math.sqrt(frame.current.scale)));
      paint.globalAlpha = px.length > 10000 ? 0.6 : 0.85;
      for (let hue = 0; hue < 12; hue += 1) {
        paint.fillStyle = hues[hue];
        for (let i = 0; i < px.length; i += 1) {
          if (hueOf[i] !== hue) continue;
          const [sx, sy] = [x(px[i]), y(py[i])];
          if (sx < -4 || sy < -4 || sx > element.clientWidth + 4 || sy > element.clientHeight + 4) continue;
          paint.fillRect(sx - dot / 2, sy - dot / 2, dot, dot);
        }
      }
      if (at >= 0) {
        paint.globalAlpha = 1;
        paint.strokeStyle = dark ? "#fff" : "#000";
        paint.lineWidth = 2;
        paint.beginPath();
        paint.arc(x(px[at]), y(py[at]), 7, 0, 2 * Math.PI);
        paint.stroke();
      }
    };
    draw();
    const watch = new ResizeObserver(draw);
    watch.observe(canvas.current);
    return () => watch.disconnect();
  });

  // The label of the feature under the cursor, once it has rested there.
  useEffect(() => {
    setName("");
    if (at < 0) return undefined;
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const label = labelText((await get(featurePath(coder.id, points.features[at]), abort.signal)).label);
        setName(label);
        if (focused) say(`Feature ${points.features[at]}: ${label}`);
      } catch {
        // The point stays unnamed; opening it tells why.
      }
    }, 120);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [at]);

  const zoom = (factor, sx = canvas.current.clientWidth / 2, sy = canvas.current.clientHeight / 2) => {
    const before = place();
    const [u, v] = [before.u(sx), before.v(sy)];
    frame.current.scale = Math.min(60, Math.max(0.8, frame.current.scale * factor));
    const after = place();
    frame.current.left += sx - after.x(u);
    frame.current.top += sy - after.y(v);
    redraw((n) => n + 1);
  };
  const reset = () => {
    frame.current = { scale: 1, left: 0, top: 0 };
    redraw((n) => n + 1);
  };
  const choose = (i) => {
    if (i < 0) return;
    const { x, y } = place();
    const { clientWidth: width, clientHeight: tall } = canvas.current;
    const [sx, sy] = [x(px[i]), y(py[i])];
    if (sx < 20 || sx > width - 20) frame.current.left += width / 2 - sx;
    if (sy < 20 || sy > tall - 20) frame.current.top += tall / 2 - sy;
    setAt(i);
  };
  const open = () => at >= 0 && go(featureHref(coder.id, points.features[at]));

  const onKeyDown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const from = at < 0 ? Math.max(nearest(place().u(canvas.current.clientWidth / 2), place().v(canvas.current.clientHeight / 2), 2), 0) : at;
    const steps = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (steps[event.key]) choose(at < 0 ? from : towards(from, ...steps[event.key]));
    else if (event.key === "Enter") open();
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") reset();
    else return;
    event.preventDefault();
  };
  const local = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const onPointerMove = (event) => {
    const [sx, sy] = local(event);
    if (drag.current) {
      const moved = [sx - drag.current.x, sy - drag.current.y];
      if (Math.abs(moved[0]) + Math.abs(moved[1]) > 3) drag.current.far = true;
      frame.current.left = drag.current.left + moved[0];
      frame.current.top = drag.current.top + moved[1];
      redraw((n) => n + 1);
      return;
    }
    const { u, v, size } = place();
    setAt(nearest(u(sx), v(sy), 12 / size));
  };
  const onPointerDown = (event) => {
    const [x, y] = local(event);
    drag.current = { x, y, left: frame.current.left, top: frame.current.top, far: false };
    event.currentTarget.setPointerCapture(event.pointerId);
  };
  const onPointerUp = (event) => {
    const far = drag.current?.far;
    drag.current = null;
    if (far) return;
    const { u, v, size } = place();
    const hit = nearest(u(local(event)[0]), v(local(event)[1]), 14 / size);
    if (hit >= 0) go(featureHref(coder.id, points.features[hit]));
  };
  // Passive listeners may not stop the page from scrolling, so this one is added by hand.
  useEffect(() => {
    const onWheel = (event) => {
      if (!event.ctrlKey && !focused) return;
      event.preventDefault();
      const box = canvas.current.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
    };
    const element = canvas.current;
    element.addEventListener("wheel", onWheel, { passive: false });
    return () => element.removeEventListener("wheel", onWheel);
  }, [focused, points]);

  const legend = { form: forms.map((form, i) => [form, i]), density: ["< 10⁻⁴", "10⁻⁴–10⁻³", "10⁻³–10⁻²", "10⁻²–10⁻¹", "> 10⁻¹"].map((text, i) => [text, i]), family: [] };
  return html`<div class="map">
    <div class="map-tools">
      <label>Colour by
        <select value=${colouring} onChange=${(event) => setColouring(event.target.value)}>
          ${COLOURINGS.filter(([value]) => (value !== "form" || forms.length) && (value !== "family" || points.family.some((family) => family >= 0))).map(([value, text]) => html`<option value=${value}>${text}</option>`)}
        </select>
      </label>
      <span class="buttons">
        <button type="button" onClick=${() => zoom(1.5)} aria-label="Zoom in">+</button>
        <button type="button" onClick=${() => zoom(1 / 1.5)} aria-label="Zoom out">−</button>
        <button type="button" onClick=${reset}>Whole map</button>
      </span>
    </div>
    <div
      class="map-field"
      tabindex="0"
      role="application"
      aria-label=${`Map of ${points.features.length} features. Arrow keys go to the next feature in that direction, Enter opens it, plus and minus zoom, 0 shows the whole map.`}
      onKeyDown=${onKeyDown}
      onFocus=${() => setFocused(true)}
      onBlur=${() => setFocused(false)}
    >
      <canvas
        ref=${canvas}
        class=${at >= 0 ? "on-point" : ""}
        style=${{ height: `${height}px` }}
        aria-hidden="true"
        onPointerMove=${onPointerMove}
        onPointerDown=${onPointerDown}
        onPointerUp=${onPointerUp}
        onPointerLeave=${() => !focused && setAt(-1)}
      ></canvas>
    </div>
    <p class="map-told">
      ${at >= 0
        ? html`<b>#${points.features[at]}</b> <bdi>${name || "…"}</bdi> <span class="muted">${points.form[at] ? `${points.form[at]} · ` : ""}density ${percent(points.density[at])}</span>`
        : html`<span class="muted">Hover or use arrow keys; click or Enter opens. Drag to move; Ctrl + wheel zooms.</span>`}
    </p>
    ${legend[colouring].length > 0 && html`<ul class="legend">${legend[colouring].map(([text, i]) => html`<li><i style=${{ background: hues[i] }}></i>${text}</li>`)}</ul>`}
  </div>`;
}
