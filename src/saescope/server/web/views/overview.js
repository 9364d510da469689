// The workspace's coders with their numbers beside the controls, and one coder's density plot, map and a feature to start with.
import { html, useState } from "../html.js";
import { coderPath, featurePath, get } from "../api.js";
import { Card } from "../card.js";
import { jobs, startLabelling } from "../jobs.js";
import { FeatureMap } from "../map.js";
import { number, percent, whole } from "../numbers.js";
import { Bars } from "../plots.js";
import { Loaded, Problem, useResource } from "../resource.js";
import { go, href } from "../route.js";
import { coder as current, workspace } from "../state.js";

const CONTROLS = { frozen_random: "frozen random", pca: "PCA", neurons: "neurons", random: "random" };
const controlName = (key) => CONTROLS[key] ?? key.replaceAll("_", " ");

function Metrics({ coder }) {
  const rows = Object.entries(coder.metrics ?? {});
  if (!rows.length) return html`<p class="muted">Not evaluated yet: <code>saescope eval</code> measures a coder beside its controls.</p>`;
  const controls = [...new Set(rows.flatMap(([, row]) => Object.keys(row.controls ?? {})))];
  return html`<div class="scroller" tabindex="0" role="region" aria-label=${`Metrics of ${coder.name}`}>
    <table class="metrics">
      <thead>
        <tr><th scope="col">metric</th><th scope="col" class="n">this coder</th>${controls.map((key) => html`<th scope="col" class="n">${controlName(key)}</th>`)}</tr>
      </thead>
      <tbody>
        ${rows.map(
          ([, row]) => html`<tr>
            <th scope="row">${row.label}</th>
            <td class="n"><b>${number(row.value)}</b>${row.interval && html` <small class="interval muted">[${number(row.interval[0])}, ${number(row.interval[1])}]</small>`}</td>
            ${controls.map((key) => html`<td class="n">${row.controls?.[key] === undefined ? "" : number(row.controls[key])}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function Coder({ coder, chosen }) {
  const [error, setError] = useState(null);
  const labelling = jobs.value.some((job) => job.coder === coder.id && job.state === "running");
  return html`<article class=${chosen ? "coder card chosen" : "coder card"}>
    <h2><a href=${href("overview", coder.id)} aria-current=${chosen ? "true" : undefined}><bdi>${coder.name}</bdi></a></h2>
    <p class="under">${coder.architecture} ${coder.kind} · ${coder.reads.join(", ")}${coder.writes.join() === coder.reads.join() ? "" : ` → ${coder.writes.join(", ")}`} · ${whole(coder.d_sae)} features</p>
    <dl class="pairs">
      <dt>live</dt><dd>${whole(coder.live)} <span class="muted">(${whole(coder.dead)} never fire)</span></dd>
      <dt>indexed</dt><dd>${whole(coder.tokens)} tokens, ${whole(coder.documents)} documents <span class="muted"><bdi>${coder.corpus}</bdi></span></dd>
      <dt>labels</dt>
      <dd>
        ${coder.labels ? html`${whole(coder.labels.count)} <span class="muted">${coder.labels.source}</span>` : html`none yet`}${" "}
        ${!coder.labels && !labelling && html`<button type="button" class="quiet" onClick=${() => startLabelling(coder.id).catch(setError)}>Label features</button>`}
      </dd>
      ${!coder.can_run && html`<dt>your text</dt><dd>not here: ${coder.why_not}</dd>`}
    </dl>
    ${error && html`<${Problem} error=${error} />`}
    <${Metrics} coder=${coder} />
    <p class="actions"><a class="button" href=${href("browse", coder.id)}>Browse features</a> ${coder.can_run && html`<a class="button" href=${href("prompt", coder.id)}>Try a text</a>`}</p>
  </article>`;
}

export function Density({ coder }) {
  const resource = useResource(coder.id, (abort) => get(coderPath(coder.id, "density"), abort));
  return html`<section>
    <h2>How often features fire</h2>
    <${Loaded} resource=${resource} what="densities">
      ${({ edges, counts }) => {
        const bars = counts.map((value, i) => ({
          value,
          told: `${whole(value)} features fire on ${percent(10 ** edges[i])} to ${percent(10 ** edges[i + 1])} of tokens`,
        }));
        const ticks = [0, 1, 2, 3].map((i) => percent(10 ** edges[Math.round((i * (edges.length - 1)) / 3)]));
        return html`<${Bars}
          bars=${bars}
          ticks=${ticks}
          said="Features by the share of tokens that they fire on (log scale)."
          openHint="Enter or click lists them"
          onOpen=${(i) => go(href("browse", coder.id, { min_density: (10 ** edges[i]).toPrecision(4), max_density: (10 ** edges[i + 1]).toPrecision(4) }))}
        />`;
      }}
    <//>
  </section>`;
}

function First({ coder }) {
  const resource = useResource(`${coder.id} ${coder.first_feature}`, (abort) => get(featurePath(coder.id, coder.first_feature), abort));
  return html`<section>
    <h2>A feature to start with</h2>
    <${Loaded} resource=${resource} what="a feature">${(card) => html`<${Card} coder=${coder.id} card=${card} onChange=${(next) => resource.set((old) => ({ ...old, ...next }))} />`}<//>
  </section>`;
}

function PointsMap({ coder }) {
  const resource = useResource(coder.id, (abort) => get(coderPath(coder.id, "map"), abort));
  return html`<section class="wide">
    <h2>Map of features</h2>
    <p class="muted">Decoder directions in two dimensions: features that write alike lie near one another. <a href=${href("browse", coder.id)}>The same as a list</a>.</p>
    <${Loaded} resource=${resource} what="the map">${(points) => (points.features.length ? html`<${FeatureMap} coder=${coder} points=${points} forms=${coder.forms} />` : html`<p class="muted">This index has no map.</p>`)}<//>
  </section>`;
}

export function Overview() {
  const { coders, title } = workspace.value;
  const coder = current.value;
  return html`<div class="overview">
    <h1 tabindex="-1"><bdi>${title || "Workspace"}</bdi></h1>
    ${coders.length > 1
      ? html`<div class="coders">${coders.map((one) => html`<${Coder} key=${one.id} coder=${one} chosen=${one.id === coder.id} />`)}</div>
          <h2 class="of">In <bdi>${coder.name}</bdi></h2>
          <div class="columns"><${First} coder=${coder} /><${Density} coder=${coder} /></div>`
      : html`<div class="columns"><${Coder} coder=${coder} /><section><${First} coder=${coder} /><${Density} coder=${coder} /></section></div>`}
    <${PointsMap} coder=${coder} />
  </div>`;
}
