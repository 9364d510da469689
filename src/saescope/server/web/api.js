// Talking to the server: JSON, one line an error, a stream of lines, and what to do when the server has gone.
import { signal } from "./html.js";

export class ApiError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** null while the server answers, else {seconds until the next try}. */
export const away = signal(null);
/** Counts returns of the server; what failed meanwhile loads again. */
export const returns = signal(0);

const DELAYS = [1, 2, 4, 8, 15];
let attempt = 0;
let timer = 0;

function gone() {
  if (away.peek()) return;
  attempt = 0;
  count(DELAYS[0]);
}

function count(seconds) {
  away.value = { seconds };
  clearTimeout(timer);
  timer = setTimeout(() => (seconds > 1 ? count(seconds - 1) : tryAgain()), 1000);
}

export async function tryAgain() {
  clearTimeout(timer);
  away.value = { seconds: 0 };
  try {
    const response = await fetch("api/workspace", { cache: "no-store" });
    if (!response.ok && response.status >= 500) throw new TypeError();
    away.value = null;
    returns.value += 1;
  } catch {
    attempt += 1;
    count(DELAYS[Math.min(attempt, DELAYS.length - 1)]);
  }
}

async function send(path, { method = "GET", body, signal: abort } = {}) {
  const headers = { Accept: "application/json" };
  if (method !== "GET") headers["X-Saescope"] = "1";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(`api/${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: abort });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    gone();
    throw new ApiError(0, "The server does not answer.");
  }
  if (!response.ok) throw new ApiError(response.status, await complaint(response));
  return response;
}

async function complaint(response) {
  try {
    const { detail } = await response.json();
    if (typeof detail === "string") return detail;
    if (Array.isArray(detail)) return detail.map((one) => `${(one.loc ?? []).slice(1).join(".")}: ${one.msg}`).join("; ");
  } catch {
    // An answer that isn't ours, as a proxy's page: its status says all we know.
  }
  return `The server answered ${response.status} ${response.statusText}.`;
}

export const get = async (path, abort) => (await send(path, { signal: abort })).json();
export const post = async (path, body, abort) => (await send(path, { method: "POST", body, signal: abort })).json();
export const put = async (path, body) => (await send(path, { method: "PUT", body })).json();

/** POST, and each line of the answer (NDJSON) as it comes. */
export async function* stream(path, body, abort) {
  const response = await send(path, { method: "POST", body, signal: abort });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) if (line.trim()) yield JSON.parse(line);
    if (done) return;
  }
}

export const query = (params) =>
  new URLSearchParams(Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "")).toString();

export const coderPath = (coder, rest) => `coders/${encodeURIComponent(coder)}/${rest}`;
export const featurePath = (coder, feature, rest = "") => coderPath(coder, `features/${feature}${rest && `/${rest}`}`);
