// The subscriber's view: what a browser gets, byte for byte, and what it does with it.

import { follow, frames, path, Refused } from './api.js';
import { cluster } from './cluster-data.js';
import { clock, count, el, hook, setState, setText } from './dom.js';

const MAX_FRAMES = 500;

// kind is what a browser takes a frame for.
function kind(frame) {
  if (frame.event === 'gap' || frame.event === 'error') return frame.event;
  if (frame.data) return 'event';
  if (frame.id !== undefined) return 'cursor';
  return frame.retry ? 'retry' : 'comment';
}

const MEANS = {
  event: 'dispatched to the page',
  gap: 'events before the next one are lost',
  error: 'the bus gives up; the browser reconnects',
  cursor: 'kept for the reconnect, dispatched to nobody',
  retry: 'how long to wait before a reconnect',
  comment: 'ignored; it shows that the connection lives',
};

export function subscriber(root, [domain = cluster.domains()[0] ?? 'scan', id = '']) {
  const input = (name, value, props) => el('input', { name, value, autocapitalize: 'none', autocomplete: 'off', spellcheck: false, ...props });
  const domainInput = input('domain', domain, { required: true, 'aria-label': 'Domain', className: 'short', ...hook('sub-domain') });
  const job = input('job', id, { placeholder: 'job id; empty: the whole domain', 'aria-label': 'Job id', 'data-first': true, ...hook('sub-job') });
  const cursor = input('cursor', '', { placeholder: 'Last-Event-ID; empty: from the start', 'aria-label': 'Last-Event-ID', ...hook('sub-cursor') });
  const connect = el('button', { textContent: 'Connect', ...hook('sub-connect') });
  const cut = el('button', { type: 'button', className: 'plain', textContent: 'Cut', title: 'Break the connection', disabled: true, ...hook('sub-cut') });
  const resume = el('button', { type: 'button', className: 'plain', textContent: 'Reconnect from the last id', disabled: true, ...hook('sub-resume') });
  const again = el('input', { type: 'checkbox', checked: true, ...hook('sub-again') });
  const state = el('span', { className: 'state', role: 'status', ...hook('sub-state') });
  const list = el('ol', { className: 'frames', role: 'log', tabIndex: 0, 'aria-label': 'Frames, newest last', ...hook('frames') });
  const total = el('span', { className: 'quiet', ...hook('sub-count') });
  const form = el('form', { className: 'inline grow' }, domainInput, job, cursor, connect);
  let abort = null, lastId = '', n = 0;

  const url = () => (job.value.trim() ? path(domainInput.value, job.value.trim(), 'events') : path(domainInput.value, 'events'));

  function add(name, lines, note, more) {
    const stick = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
    const item = el('li', { 'data-kind': name, ...hook('frame') },
      el('div', { className: 'side' }, el('time', { textContent: clock(Date.now() + cluster.skew, true) }), el('span', { className: 'chip', textContent: name, title: MEANS[name] ?? '' })),
      el('pre', { textContent: lines }), el('div', { className: 'quiet' }, note, more));
    list.append(item);
    while (list.children.length > MAX_FRAMES) list.firstChild.remove();
    if (stick) list.scrollTop = list.scrollHeight;
  }

  function onFrame(frame) {
    const name = kind(frame);
    if (frame.id) lastId = frame.id;
    setText(total, `${count(++n)} frames`);
    const from = frame.id && el('button', { type: 'button', className: 'link', textContent: 'reconnect from here', 'aria-label': `Reconnect from ${frame.id}`, onclick: () => open(frame.id), ...hook('from-here') });
    add(name, frame.raw, MEANS[name], from);
    return false;
  }

  function onOpen(response) {
    const shown = ['content-type', 'cache-control', 'connection', 'x-accel-buffering', 'retry-after'].map((h) => response.headers.get(h) && `${h}: ${response.headers.get(h)}`).filter(Boolean);
    add('open', [`HTTP ${response.status}`, ...shown].join('\n'), 'the stream begins; readyState 1');
  }

  function ended(status, err) {
    if (status === 204) add('204', 'HTTP 204 No Content', 'the job is over and the cursor is at its end: an EventSource stops for good');
    else if (err instanceof Refused) add('refused', err.message, 'a native EventSource gives up for good at any status but 200');
    else add('closed', err ? String(err.message ?? err) : 'end of the stream', err ? 'the network failed; the browser reconnects' : 'the server closed; the browser reconnects');
  }

  // open does what an EventSource does, and shows it.
  async function open(from) {
    abort?.abort();
    abort = new AbortController();
    const { signal } = abort;
    cursor.value = from;
    lastId = from;
    cut.disabled = resume.disabled = false;
    add('request', `GET /${url()}\nAccept: text/event-stream${from ? `\nLast-Event-ID: ${from}` : ''}`, 'readyState 0');
    if (again.checked) {
      await follow(url(), {
        signal, cursor: from, onFrame,
        onState(now, err) {
          if (now === 'live') add('open', 'HTTP 200', 'the stream begins; readyState 1');
          if (now === 'reconnecting') add('closed', 'end of the connection', `a reconnect follows${lastId ? `, with Last-Event-ID: ${lastId}` : ''}`);
          if (now === 'over') ended(204);
          if (now === 'refused') ended(err.status, err);
          setState(state, now, now === 'over' ? 'finished' : now);
        },
      });
    } else {
      setState(state, 'connecting');
      try {
        await frames(url(), { signal, cursor: from, onFrame, onOpen(response) { setState(state, 'live'); onOpen(response); } });
        ended();
      } catch (err) {
        if (!signal.aborted) ended(err.status, err);
      }
      if (!signal.aborted) setState(state, 'closed');
    }
    if (!signal.aborted) cut.disabled = true;
  }

  form.addEventListener('submit', (e) => {
    e.preventDefault();
    open(cursor.value.trim());
  });
  cut.addEventListener('click', () => {
    abort?.abort();
    cut.disabled = true;
    add('closed', 'connection cut', 'by this page');
    setState(state, 'closed');
  });
  resume.addEventListener('click', () => open(lastId));
  const clear = el('button', { type: 'button', className: 'plain', textContent: 'Clear', onclick: () => { list.replaceChildren(); n = 0; setText(total, ''); } });
  root.append(el('section', { className: 'fill', 'aria-labelledby': 'sub-title' },
    el('h1', { id: 'sub-title' }, 'As a browser gets it', total, state), form,
    el('div', { className: 'buttons' }, cut, resume, clear, el('label', { className: 'check' }, again, 'reconnect by itself, as an EventSource')), list));
  if (id) open('');
  return { title: 'Subscriber', close() { abort?.abort(); } };
}
