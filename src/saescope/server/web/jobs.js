// Long work on the server: its progress in the header, asked for only while something runs.
import { effect, html, signal } from "./html.js";
import { coderPath, get, post, returns } from "./api.js";
import { say, workspace } from "./state.js";

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
  } catch (error) {
    // That the server has gone the banner tells; its return loads the workspace, jobs with it.
    if (error.status) watch();
    return;
  }
  // A job of another process is not there any more once it is done.
  const ended = before.filter((job) => job.state === "running").map((job) => jobs.value.find((now) => now.id === job.id) ?? { ...job, state: "done" }).filter((job) => job.state !== "running");
  for (const job of ended) say(`${title(job)} ${job.state}${job.message ? `: ${job.message}` : ""}`);
  // What is shown may have new labels now: it loads again, the workspace first.
  if (ended.length) returns.value += 1;
  else watch();
}

const VERBS = { contrastive: "Labelling", llm: "Labelling", label: "Labelling", index: "Indexing" };
const title = (job) => `${VERBS[job.kind] ?? job.kind} ${workspace.value?.coders.find((one) => one.id === job.coder)?.name ?? job.coder}`;

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
        <span>${title(job)}: ${job.state === "failed" ? job.message || "failed" : job.stage}</span>
        ${job.state === "running" && html`<progress max=${job.total || undefined} value=${job.total ? job.done : undefined} aria-label=${title(job)}></progress>
          <span class="number">${job.total ? `${Math.floor((100 * job.done) / job.total)} %` : ""}</span>`}
      </p>`,
    )}
  </div>`;
}
