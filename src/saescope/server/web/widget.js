// The explorer's feature card and prompt view in a notebook cell: what the kernel sends, drawn with plain DOM, since a
// widget is one module. Text of tokens and labels is untrusted and only ever becomes text nodes.
const SHADES = 8;
const FIRST_GROUPS = 1;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const number = (value) => (value === null || value === undefined ? "–" : String(Number(Number(value).toPrecision(3))));
const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "→") || "∅";
const shade = (value, max) => (value > 0 && max > 0 ? Math.min(SHADES, Math.max(1, Math.ceil((SHADES * value) / max))) : 0);

/** Tokens coloured by value, walked with the arrow keys; the value is the title and is told to screen readers. */
function strip(tokens, max, peak, label) {
  const spans = tokens.map((token, i) => {
    const classes = ["tok", `s${shade(token.v, max)}`];
    if (i === peak) classes.push("peak");
    if (token.k === false) classes.push("left-out");
    if (token.t.includes("\n")) classes.push("break");
    const value = token.k === false ? "left out" : number(token.v ?? 0);
    return element("span", { class: classes.join(" "), title: value, "aria-label": `${visible(token.t)}: ${value}`, role: "img", tabindex: i === Math.max(peak, 0) ? 0 : -1 }, visible(token.t));
  });
  const move = (event) => {
    const at = spans.indexOf(event.target);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    spans[Math.min(Math.max(to, 0), spans.length - 1)].focus();
  };
  return element("div", { class: "strip", role: "group", "aria-label": label, on: { keydown: move } }, ...spans);
}

function card(content) {
  const facts = [content.form, `density ${number(100 * content.density)} %`, `max ${number(content.max)}`];
  if (content.label?.score !== null && content.label?.score !== undefined) facts.push(`score ${number(content.label.score)}`);
  const groups = content.groups.map((group, i) =>
    element(
      "details",
      i < FIRST_GROUPS ? { open: "" } : {},
      element("summary", {}, `${group.name} (${number(group.low)} to ${number(group.high)})`),
      ...group.contexts.slice(0, 8).map((context) =>
        element("div", { class: "example" }, strip(context.tokens, content.max, context.peak, context.document?.title ?? ""), element("small", {}, context.document?.title ?? "")),
      ),
    ),
  );
  const outputs = content.outputs_top.slice(0, 8).map((token) => element("bdi", { class: "token-alone" }, visible(token.text)));
  return [
    element("h3", {}, `#${content.feature} `, element("bdi", {}, content.label?.text || "(no label)")),
    element("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
    outputs.length ? element("p", { class: "outputs" }, "→ ", ...outputs.flatMap((token) => [token, " "])) : null,
    ...groups,
  ];
}

function prompt(content, model) {
  const shown = content.shown;
  const values = shown === null ? [] : content.pinned[String(shown)];
  const tokens = content.tokens.map((token, i) => ({ ...token, v: values?.[i] ?? 0 }));
  const name = (feature) => content.labels[String(feature)] || "(no label)";
  const choose = (feature) => {
    model.set("feature", feature);
    model.save_changes();
  };
  const list = content.strongest.slice(0, 12).map((entry) =>
    element(
      "li",
      {},
      element("button", { type: "button", "aria-pressed": entry.feature === shown ? "true" : "false", on: { click: () => choose(entry.feature) } }, `#${entry.feature} `, element("bdi", {}, name(entry.feature))),
      ` ${number(entry.value)} on `,
      element("bdi", { class: "token-alone" }, visible(content.tokens[entry.token].t)),
    ),
  );
  return [
    shown === null ? null : element("p", { class: "facts" }, `coloured by #${shown} `, element("bdi", {}, name(shown))),
    strip(tokens, content.maxima[String(shown)] ?? 0, -1, "the text"),
    element("ol", { class: "strongest" }, ...list),
  ];
}

export default {
  render({ model, el }) {
    const root = element("div", { class: "saescope widget" });
    const body = element("div", {});
    if (model.get("kind") === "prompt") {
      let waiting;
      const typed = (event) => {
        clearTimeout(waiting);
        waiting = setTimeout(() => {
          model.set("text", event.target.value);
          model.save_changes();
        }, 300);
      };
      const box = element("textarea", { rows: 3, "aria-label": "your text", on: { input: typed } });
      box.value = model.get("text");
      root.append(box);
    }
    const draw = () => {
      const error = model.get("error");
      const content = model.get("content");
      const drawn = Object.keys(content).length ? (model.get("kind") === "prompt" ? prompt(content, model) : card(content)) : [];
      body.replaceChildren(...(error ? [element("p", { class: "problem", role: "alert" }, error)] : []), ...drawn.filter((part) => part !== null));
    };
    root.append(body);
    el.append(root);
    model.on("change:content", draw);
    model.on("change:error", draw);
    draw();
  },
};
