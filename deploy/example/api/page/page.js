// The browser's side, with nothing but what browsers have: a form, fetch, EventSource.
"use strict";

const stages = ["queued", "vision", "rule", "answer", "reward", "done", "failed"];
const el = (id) => document.getElementById(id);
let source;

el("form").addEventListener("submit", (e) => {
  e.preventDefault();
  const file = el("file").files[0];
  if (file) scan(file);
  else el("error").textContent = "Choose a picture first.";
});

el("sample").addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  canvas.width = 320;
  canvas.height = 240;
  const c = canvas.getContext("2d");
  c.fillStyle = "#e8e8e8";
  c.fillRect(0, 0, 320, 240);
  c.fillStyle = `hsl(${Math.floor(Math.random() * 360)} 70% 45%)`;
  c.fillRect(20, 10, 280, 220);
  canvas.toBlob(scan, "image/png");
});

async function scan(picture) {
  source?.close();
  reset();
  el("error").textContent = "";
  el("preview").src = URL.createObjectURL(picture);
  try {
    const job = await post(picture);
    el("id").textContent = job.job_id;
    el("job").hidden = false;
    follow(job);
  } catch (e) {
    el("error").textContent = e.message;
  }
}

// The same key until there is an answer: an upload that was cut off is no second scan.
async function post(picture) {
  const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
  for (let attempt = 1; ; attempt++) {
    const body = new FormData();
    body.append("picture", picture, "picture");
    const response = await fetch("/scan", {method: "POST", body, headers: {"Idempotency-Key": key}}).catch((e) => e);
    if (response.ok) return response.json();
    const passing = response instanceof Error || response.status === 503;
    if (!passing || attempt === 5) throw new Error(response.message ?? (await response.json()).error);
    await new Promise((r) => setTimeout(r, attempt * 1000));
  }
}

// EventSource connects again by itself, and resumes after the last event that it got.
function follow(job) {
  source = new EventSource(job.stream_url);
  source.onopen = () => (el("connection").textContent = "live");
  source.onerror = () => (el("connection").textContent = source.readyState === EventSource.CLOSED ? "closed" : "connecting again …");
  for (const stage of stages) source.addEventListener(stage, (e) => show(JSON.parse(e.data), job));
  source.addEventListener("gap", () => {
    // What was shown may have holes; everything that is retained follows.
    const gaps = Number(el("gaps").textContent) + 1;
    reset();
    el("gaps").textContent = gaps;
  });
}

async function show(event, job) {
  el("count").textContent = Number(el("count").textContent) + 1;
  el("last").textContent = event.id;
  if (event.progress !== undefined) el("progress").value = event.progress;
  if (event.content) el("tokens").textContent += event.content;
  const step = [...el("stages").children].find((li) => li.dataset.stage === event.stage);
  if (step) step.className = event.status;
  if (!event.final) return;
  source.close();
  el("connection").textContent = "finished";
  if (event.message) el("error").textContent = event.message;
  // The event has the result, too; this is for those who did not watch.
  const result = await (await fetch(job.result_url)).json();
  el("result").textContent = JSON.stringify(result.result ?? result, null, 2);
}

function reset() {
  el("stages").replaceChildren(...stages.filter((s) => s !== "failed").map((s) => {
    const li = document.createElement("li");
    li.dataset.stage = li.textContent = s;
    return li;
  }));
  for (const id of ["tokens", "result", "last", "connection"]) el(id).textContent = "";
  for (const id of ["count", "gaps"]) el(id).textContent = "0";
  el("progress").value = 0;
}
