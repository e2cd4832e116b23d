// The jobs page: the live jobs of a domain at the left, one of them at the right.

import { describe, follow, path, token } from './api.js';
import { cluster } from './cluster-data.js';
import { $, ago, count, el, hook, notice, setState, setText } from './dom.js';
import { job as jobView } from './job.js';

const MAX_ROWS = 300;
const SILENT = 60_000; // what says nothing for so long is worth a look
// With more entries than that in its shard logs, a domain's last minutes are not asked for unless wanted.
const FEW = 20_000;

// ---- the jobs of a domain, kept while pages come and go ------------------------

// Store follows the Watch of a domain. Listeners hear (job) for each event.
class Store {
  jobs = new Map(); // job id → { id, event, progress, seen }
  state = 'connecting';
  notices = [];
  listeners = new Set();

  constructor(domain, since) {
    Object.assign(this, { domain, since, abort: new AbortController() });
    follow(path(domain, 'events'), {
      signal: this.abort.signal,
      cursor: since,
      onState: (state, err) => {
        this.state = state;
        if (err) this.note('error', err.message);
        for (const l of this.listeners) l.state?.(state);
      },
      onFrame: (frame) => this.frame(frame),
    });
  }

  note(kind, text) {
    this.notices.push({ kind, text });
    for (const l of this.listeners) l.notice?.(kind, text);
  }

  frame({ event: name, data }) {
    if (!data) return;
    const event = JSON.parse(data);
    // At the start of all shards, what is older than their logs is nobody's loss.
    if (name === 'gap') return void (event.job_id && this.note('gap', `Events were lost: ${event.reason} (${event.job_id})`));
    if (name === 'error') return void this.note('error', describe(event));
    let job = this.jobs.get(event.job_id);
    if (!job) {
      this.forget();
      job = { id: event.job_id, first: Date.parse(event.publish_time) || Date.now() };
      this.jobs.set(job.id, job);
    }
    Object.assign(job, { event, seen: Date.parse(event.publish_time) || Date.now(), progress: event.progress ?? job.progress ?? 0 });
    for (const l of this.listeners) l.job?.(job);
  }

  // forget makes room: the oldest that is over goes, else the oldest.
  forget() {
    if (this.jobs.size < MAX_ROWS) return;
    const old = [...this.jobs.values()].find((j) => j.event.final) ?? this.jobs.values().next().value;
    this.jobs.delete(old.id);
    for (const l of this.listeners) l.gone?.(old);
  }

  close() { this.abort.abort(); }
}

let store = null;

// storeOf is the domain's store; since is where a new one begins.
function storeOf(domain, since, anew = false) {
  if (store?.domain === domain && !anew) return store;
  store?.close();
  store = new Store(domain, since);
  return store;
}
token.onChange(() => {
  store?.close();
  store = null;
});

// whenKnown is where to begin: with what the shard logs hold, if that is not much.
async function whenKnown(domain, signal) {
  if (!cluster.data && !cluster.error) {
    await new Promise((known) => {
      const stop = cluster.watch(() => { stop(); known(); });
      signal.addEventListener('abort', known);
    });
  }
  const entries = (cluster.data?.shards ?? []).filter((s) => s.domain === domain).reduce((n, s) => n + s.length, 0);
  return cluster.data && entries <= FEW ? '0-0' : '';
}

// ---- rows --------------------------------------------------------------------

const isSilent = (job) => !job.event.final && Date.now() + cluster.skew - job.seen > SILENT;
const phase = (job) => (job.event.final ? (job.event.status === 'failed' ? 'failed' : 'finished') : isSilent(job) ? 'silent' : 'running');

function newRow(domain, job) {
  const row = {
    job, what: el('span', { className: 'what' }), seen: el('span', { className: 'seen' }), word: el('span', { className: 'word' }),
    bar: el('progress', { max: 100, value: 0, 'aria-label': `Progress of ${job.id}` }),
  };
  row.link = el('a', { href: `#/jobs/${domain}/${job.id}`, title: job.id, 'data-job': job.id }, el('code', { textContent: job.id }), row.word, row.what, row.seen, row.bar);
  row.node = el('li', {}, row.link);
  return row;
}

function drawRow({ job, link, what, seen, word, bar }) {
  const { event } = job, now = phase(job);
  setText(what, [event.stage, event.status].filter(Boolean).join(' · '));
  setText(seen, `#${event.seq} · ${ago(Date.now() + cluster.skew - job.seen)}`);
  setText(word, now);
  bar.value = job.progress;
  Object.assign(link.dataset, { stage: event.stage, status: event.status ?? '', seq: event.seq, phase: now });
  if (event.final) link.dataset.final = now === 'failed' ? 'failed' : 'done';
  else delete link.dataset.final;
}

// list shows the store's jobs, newest first. It returns what a new route needs.
function list(domain, chosen, node) {
  const rows = new Map(), dirty = new Set();
  const jobs = el('ul', { className: 'jobs', ...hook('jobs') });
  const none = el('p', { className: 'quiet', ...hook('none') });
  const state = el('span', { className: 'state', role: 'status', ...hook('watch') });
  const notices = el('ul', { className: 'notices', role: 'log', 'aria-label': 'Trouble of the list' });
  const filter = el('input', { type: 'search', placeholder: 'Filter: id, stage, status', 'aria-label': 'Filter jobs', 'data-first': true, autocomplete: 'off', spellcheck: false, ...hook('filter') });
  const phases = el('select', { 'aria-label': 'Which jobs', ...hook('phase') }, ['all', 'running', 'silent', 'failed', 'finished'].map((p) => el('option', { value: p, textContent: p })));
  const total = el('span', { className: 'quiet', ...hook('jobs-total') });
  const older = el('button', { type: 'button', className: 'plain', textContent: 'Last 10 minutes', title: 'Read what the shard logs still hold', hidden: true, ...hook('older') });

  function matches(job) {
    const text = filter.value.trim().toLowerCase();
    return (phases.value === 'all' || phases.value === phase(job)) && (!text || [job.id, job.event.stage, job.event.status].some((s) => s?.toLowerCase().includes(text)));
  }
  function draw() {
    for (const row of dirty) {
      drawRow(row);
      row.node.hidden = !matches(row.job);
    }
    dirty.clear();
    const shown = [...rows.values()].filter((r) => !r.node.hidden).length;
    setText(total, shown === rows.size ? count(shown) : `${count(shown)} of ${count(rows.size)}`);
    setText(none, rows.size ? 'No job is like that.' : 'Waiting for the next event of this domain.');
    none.hidden = shown > 0;
  }
  function redraw() {
    for (const row of rows.values()) dirty.add(row);
    draw();
  }
  const listener = {
    job(job) {
      let row = rows.get(job.id);
      if (!row) {
        row = newRow(domain, job);
        rows.set(job.id, row);
        // The logs of shards come one after the other: what is older stands below.
        let below = jobs.firstChild;
        while (below?.first > job.first) below = below.nextSibling;
        row.node.first = job.first;
        jobs.insertBefore(row.node, below);
        if (job.id === chosen.id) row.link.setAttribute('aria-current', 'true');
      }
      if (dirty.size === 0) requestAnimationFrame(draw);
      dirty.add(row);
    },
    gone(job) {
      rows.get(job.id)?.node.remove();
      dirty.delete(rows.get(job.id));
      rows.delete(job.id);
    },
    state: (s) => setState(state, s),
    notice: (kind, text) => notice(notices, kind, text),
  };
  let of = null;
  function attach(next) {
    of?.listeners.delete(listener);
    of = next;
    rows.clear();
    jobs.replaceChildren();
    for (const job of of.jobs.values()) listener.job(job);
    for (const { kind, text } of of.notices) listener.notice(kind, text);
    listener.state(of.state);
    of.listeners.add(listener);
    older.hidden = of.since !== '';
    draw();
  }
  filter.addEventListener('input', redraw);
  phases.addEventListener('change', redraw);
  older.addEventListener('click', () => attach(storeOf(domain, '0-0', true)));
  const clockwork = setInterval(redraw, 1000);
  const abort = new AbortController();
  setState(state, 'connecting');
  if (store?.domain === domain) attach(store);
  else whenKnown(domain, abort.signal).then((since) => { if (!abort.signal.aborted) attach(storeOf(domain, since)); });

  node.append(el('h2', {}, 'Live jobs', total, state), el('div', { className: 'filters' }, filter, phases, older), notices, none, jobs);
  return {
    choose(id) {
      chosen.id = id;
      for (const { link, job } of rows.values()) {
        if (job.id === id) link.setAttribute('aria-current', 'true');
        else link.removeAttribute('aria-current');
      }
    },
    close() {
      abort.abort();
      clearInterval(clockwork);
      of?.listeners.delete(listener);
    },
  };
}

function domainNav(domain) {
  const nav = el('nav', { className: 'domains', 'aria-label': 'Domain' });
  const other = el('input', { placeholder: 'other domain', 'aria-label': 'Other domain', maxLength: 32, autocapitalize: 'none', autocomplete: 'off', spellcheck: false, pattern: '[a-z][a-z0-9\\-]{0,31}', title: 'a-z, then at most 31 of a-z, 0-9 and -', required: true, ...hook('domain') });
  const form = el('form', { className: 'inline' }, other, el('button', { className: 'plain', textContent: 'Open', ...hook('domain-open') }));
  form.addEventListener('submit', (e) => {
    e.preventDefault();
    location.hash = `#/jobs/${other.value}`;
  });
  const draw = () => {
    const all = [...new Set([...(cluster.domains().length ? cluster.domains() : ['scan', 'chat']), domain])];
    if (nav.dataset.shown === all.join()) return;
    nav.dataset.shown = all.join();
    nav.replaceChildren(...all.map((d) => el('a', { href: `#/jobs/${d}`, textContent: d, 'aria-current': d === domain && 'page', 'data-domain': d })));
  };
  draw();
  return { node: el('div', { className: 'bar' }, nav, form), close: cluster.watch(draw) };
}

// jobs is the page of a domain and, perhaps, one of its jobs. reroute goes to another
// job without a new list.
export function jobs(root, [domain = cluster.domains()[0] ?? 'scan', id = '']) {
  const chosen = { id };
  const nav = domainNav(domain);
  const left = el('section', { className: 'list', 'aria-label': 'Live jobs' });
  const right = el('div', { className: 'detail' });
  const split = el('div', { className: 'split' }, left, right);
  root.append(el('h1', { textContent: `Jobs of ${domain}`, className: 'sr' }), nav.node, split);
  const rows = list(domain, chosen, left);
  let view = null;
  function show(next) {
    view?.close();
    right.replaceChildren();
    split.dataset.chosen = next ? 'job' : 'none';
    rows.choose(next);
    view = jobView(right, domain, next);
  }
  show(id);
  return {
    title: id || `Jobs of ${domain}`,
    reroute([otherDomain, other = '']) {
      if (otherDomain !== domain) return null;
      show(other);
      if (!left.checkVisibility()) $('main').focus(); // a small window shows the one or the other
      return other || `Jobs of ${domain}`;
    },
    close() {
      view?.close();
      rows.close();
      nav.close();
    },
  };
}
