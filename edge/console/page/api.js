// The edge's HTTP API, as this page calls it: with a token, if there is one, and with
// nothing that a browser's own EventSource has not, except that it hears every event
// name and shows what it reads.

import { sleep } from './dom.js';

export const path = (...parts) => 'api/v1/' + parts.map(encodeURIComponent).join('/');
export const inspect = (...parts) => 'api/inspect/v1/' + parts.map(encodeURIComponent).join('/');

// ---- token -------------------------------------------------------------------

const KEPT = 'eventbus-token';
const changed = new EventTarget();

export const token = {
  get: () => sessionStorage.getItem(KEPT) ?? '',
  set(text) {
    if (text) sessionStorage.setItem(KEPT, text);
    else sessionStorage.removeItem(KEPT);
    changed.dispatchEvent(new Event('change'));
  },
  // read is what the token says of itself; nobody has checked it here.
  read() {
    try {
      const part = token.get().split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
      return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
    } catch {
      return null;
    }
  },
  onChange: (run) => changed.addEventListener('change', run),
};

const headers = (more) => ({ ...(token.get() && { Authorization: `Bearer ${token.get()}` }), ...more });

// ---- calls -------------------------------------------------------------------

// describe is a google.rpc.Status in a line.
export function describe(status) {
  const rules = (status.details ?? []).flatMap((d) => d.field_violations ?? d.fieldViolations ?? []);
  const more = rules.filter((v) => !status.message?.includes(v.description)).map((v) => `${v.field}: ${v.description}`);
  return [status.message, ...more].filter(Boolean).join(' – ');
}

export class Refused extends Error {
  constructor(status, text) {
    super(`HTTP ${status}${text ? `: ${text}` : ''}`);
    this.status = status;
    this.text = text;
  }
  // Asking again cannot help.
  get forGood() { return this.status >= 400 && this.status < 500 && ![408, 429].includes(this.status); }
}

async function refusal(response) {
  let text = (await response.text()).trim();
  try { text = describe(JSON.parse(text)) || text; } catch { /* not ours: a proxy's own page */ }
  return new Refused(response.status, text.slice(0, 500) || response.statusText);
}

// get is the JSON of a path; it throws Refused unless the status is 200.
export async function get(url, signal) {
  const response = await fetch(url, { headers: headers({ Accept: 'application/json' }), cache: 'no-store', signal });
  if (response.status !== 200) throw await refusal(response);
  return response.json();
}

// post publishes an event; key makes sending it again safe.
export async function post(url, key, event) {
  const response = await fetch(url, {
    method: 'POST', headers: headers({ 'Content-Type': 'application/json', ...(key && { 'Idempotency-Key': key }) }), body: JSON.stringify(event),
  });
  if (!response.ok) throw await refusal(response);
  return response.json();
}

// ---- streams -----------------------------------------------------------------

// A frame is what stands before a blank line. raw is its text.
function parse(raw) {
  const frame = { raw, event: 'message', data: '', comment: '' };
  for (const line of raw.split('\n')) {
    const [, field, text] = /^(\w*):? ?(.*?)\r?$/s.exec(line) ?? [];
    if (line.startsWith(':')) frame.comment += text;
    else if (field === 'id') frame.id = text;
    else if (field === 'retry') frame.retry = Number(text);
    else if (field === 'event') frame.event = text;
    else if (field === 'data') frame.data += text;
  }
  return frame;
}

// A connection that says nothing for so long is dead: heartbeats are more frequent.
const SILENCE = 60_000;

// frames calls onFrame with every SSE frame until it returns true or the stream ends;
// onOpen with the response. It throws Refused unless the status is 200.
export async function frames(url, { signal, cursor, onOpen = () => {}, onFrame }) {
  const silent = new AbortController();
  let alarm;
  const alive = () => {
    clearTimeout(alarm);
    alarm = setTimeout(() => silent.abort(), SILENCE);
  };
  try {
    alive();
    const response = await fetch(url, {
      headers: headers({ Accept: 'text/event-stream', ...(cursor && { 'Last-Event-ID': cursor }) }), cache: 'no-store', signal: AbortSignal.any([signal, silent.signal]),
    });
    if (response.status !== 200) throw await refusal(response);
    onOpen(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ''; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      alive();
      const parts = (rest + value).split('\n\n');
      rest = parts.pop();
      for (const raw of parts) {
        if (onFrame(parse(raw))) return void reader.cancel().catch(() => {});
      }
    }
  } finally {
    clearTimeout(alarm);
  }
}

// follow reads a stream, and resumes it after the last id, until onFrame returns true,
// the server says that all is over, or refuses for good. onState hears: connecting,
// live, reconnecting, finished, over, refused.
export async function follow(url, { signal, cursor = '', onFrame, onState }) {
  let pause = 1000, over = false;
  onState('connecting');
  while (!signal.aborted) {
    try {
      await frames(url, {
        signal, cursor,
        onOpen: () => onState('live'),
        onFrame(frame) {
          pause = frame.retry ?? pause;
          over = onFrame(frame) === true;
          cursor = frame.id || cursor;
          return over;
        },
      });
      if (over) return onState('finished');
    } catch (err) {
      if (signal.aborted) return;
      if (err.status === 204) return onState('over');
      if (err.forGood) return onState('refused', err);
    }
    if (signal.aborted) return;
    onState('reconnecting');
    await sleep(pause * (1 + Math.random() / 2));
  }
}
