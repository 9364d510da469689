// Long work on the server: its progress in the header, asked for only while something runs.
import { effect, html, signal } from "./html.js";
import { coderPath, get, post } from "./api.js";
import { loadWorkspace, say, workspace } from "./state.js";

export const jobs = signal([]);
let timer = 0;

// A workspace that was only changed here brings no news of jobs.
let given = null;
effect(() => {
  const told = workspace.value?.jobs;
  if (!told || told === given) return;
  given = told;
  jobs.value = told;
  watch();
});

function watch() {
  clearTimeout(timer);
  if (jobs.peek().some((job) => job.state === "running")) timer = setTimeout(poll, 1000);
}

async function poll() {
  const before = jobs.peek();
  try {
    const answer = await get("jobs");
    jobs.value = Array.isArray(answer) ? answer : answer.jobs;
  } catch {
    return; // The banner tells that the server has gone; its return loads the workspace, jobs with it.
  }
  const ended = jobs.value.filter((job) => job.state !== "running" && before.some((old) => old.id === job.id && old.state === "running"));
  for (const job of ended) say(`${job.kind} ${job.state}${job.message ? `: ${job.message}` : ""}`);
  if (ended.length) loadWorkspace();
  else watch();
}

export async function startLabelling(coder) {
  const job = await post(coderPath(coder, "label-job"), { kind: "contrastive" });
  jobs.value = [...jobs.peek().filter((one) => one.id !== job.id), job];
  watch();
}

export function Jobs() {
  const shown = jobs.value.filter((job) => job.state !== "done");
  if (!shown.length) return null;
  return html`<div class="jobs">
    ${shown.map(
      (job) => html`<p class=${`job ${job.state}`} key=${job.id}>
        <span>${job.kind} · ${job.coder}: ${job.state === "failed" ? job.message || "failed" : job.stage}</span>
        ${job.state === "running" && html`<progress max=${job.total || undefined} value=${job.total ? job.done : undefined} aria-label=${`${job.kind} of ${job.coder}`}></progress>
          <span class="number">${job.total ? `${Math.floor((100 * job.done) / job.total)} %` : ""}</span>`}
      </p>`,
    )}
  </div>`;
}
