// One job: how it goes, its stages over time, its events as they are, and why it says
// nothing more.

import { describe, follow, get, inspect, path } from './api.js';
import { cluster } from './cluster-data.js';
import { clock, copyable, count, duration, el, hook, millis, notice, plural, setState, setText } from './dom.js';
import { fillFindings, findingList } from './overview.js';
import { settings } from './settings.js';
import { Timeline } from './timeline.js';

const MAX_EVENTS = 500; // rows of the table
const SILENT = 60_000;

const busNow = () => Date.now() + cluster.skew;

// traceOf is the trace's id in a traceparent (W3C Trace Context), or nothing.
const traceOf = (traceparent) => /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/.exec(traceparent ?? '')?.[1];

function trace(traceparent) {
  const id = traceOf(traceparent);
  if (!id) return traceparent ? copyable(traceparent, 'traceparent', `${traceparent.slice(0, 8)}…`) : '–';
  if (!settings.trace_url) return copyable(id, 'trace id', `${id.slice(0, 8)}…`);
  return el('a', { href: settings.trace_url.replaceAll('{trace_id}', id), target: '_blank', rel: 'noopener noreferrer', title: id, ...hook('trace') }, `${id.slice(0, 8)}…`);
}

// empty is what stands where no job is chosen.
function empty(root, domain) {
  const input = el('input', { id: 'job', required: true, maxLength: 128, pattern: '[A-Za-z0-9._:\\-]{1,128}', title: '1 to 128 of A-Z, a-z, 0-9 and . _ : -', autocapitalize: 'none', autocomplete: 'off', spellcheck: false, placeholder: '904fb02f-3e06-482c-…', ...hook('job') });
  const form = el('form', { className: 'inline' }, el('label', { for: 'job', textContent: 'Job id' }), input, el('button', { textContent: 'Open', ...hook('follow-open') }));
  form.addEventListener('submit', (e) => {
    e.preventDefault();
    location.hash = `#/jobs/${domain}/${input.value.trim()}`;
  });
  root.append(el('section', {}, el('h2', { textContent: 'A job' }), el('p', { className: 'quiet', textContent: 'Choose one of the list, or open it by its id: also one that is over, as long as its events are kept.' }), form));
}

// Table shows the last events of a job.
class Table {
  waiting = [];
  total = 0;

  constructor() {
    this.body = el('tbody', { ...hook('events') });
    this.note = el('span', { className: 'quiet' });
    const head = [['Seq', ''], ['Time', ''], ['After', 'wide number'], ['Stage', ''], ['Progress', 'wide number'], ['Latency', 'wide number'], ['Id', 'wide'], ['Trace', 'wide']];
    this.node = el('table', { className: 'events' }, el('thead', {}, el('tr', {}, head.map(([text, className]) => el('th', { textContent: text, scope: 'col', className, title: HELP[text] ?? '' })))), this.body);
  }

  add(event, after, latency) {
    this.total++;
    this.waiting.push({ event, after, latency });
    if (this.waiting.length > MAX_EVENTS) this.waiting.shift();
  }

  draw() {
    if (this.waiting.length === 0) return;
    this.body.prepend(...this.waiting.splice(0).reverse().map(eventRow));
    while (this.body.children.length > MAX_EVENTS) this.body.lastChild.remove();
    setText(this.note, this.total > MAX_EVENTS ? `the last ${MAX_EVENTS} of ${count(this.total)}` : count(this.total));
  }

  clear() {
    this.total = 0;
    this.waiting = [];
    this.body.replaceChildren();
  }
}

const HELP = { After: 'Time since the event before it', Latency: 'From the publish to this page, by the clocks of both; only of what came live' };

function eventRow({ event, after, latency }) {
  const more = el('button', { type: 'button', className: 'more', textContent: event.seq, 'aria-expanded': 'false', 'aria-label': `Event ${event.seq}, show its JSON`, ...hook('event-open') });
  const row = el('tr', { ...hook('event'), 'data-seq': event.seq, 'data-status': event.status ?? '', 'data-final': event.final === true && 'true' },
    el('td', {}, more), el('td', {}, el('time', { dateTime: event.publish_time, textContent: clock(event.publish_time, true), title: event.publish_time })),
    el('td', { className: 'wide number', textContent: after === undefined ? '' : `+${duration(after)}` }),
    el('td', {}, el('div', { className: 'stage' }, el('strong', { textContent: event.stage }), event.status && el('span', { className: 'chip', textContent: event.status, 'data-status': event.status }), event.final && el('span', { className: 'chip', textContent: 'final' }))),
    el('td', { className: 'wide number', textContent: event.progress === undefined ? '' : `${event.progress} %` }),
    el('td', { className: 'wide number', textContent: latency === undefined ? '–' : duration(latency), ...hook('latency') }),
    el('td', { className: 'wide' }, copyable(event.id, 'id')), el('td', { className: 'wide' }, trace(event.traceparent)));
  more.addEventListener('click', () => {
    const open = more.getAttribute('aria-expanded') !== 'true';
    more.setAttribute('aria-expanded', open);
    if (open) row.after(el('tr', { className: 'json' }, el('td', { colSpan: 8 }, el('pre', { tabIndex: 0, textContent: JSON.stringify(event, null, 2), 'aria-label': `Event ${event.seq}`, ...hook('event-json') }))));
    else row.nextSibling.remove();
  });
  return row;
}

// View is one job that is followed.
class View {
  seq = 0;
  counts = { events: 0, duplicates: 0, holes: 0 };
  jump = false; // after a gap the next event may have any seq
  at = undefined; // when the last event was published
  abort = new AbortController();
  dirty = false;

  constructor(root, domain, id) {
    Object.assign(this, { domain, id, timeline: new Timeline(busNow), table: new Table() });
    this.opened = Infinity; // what was published before came from the log
    this.build(root);
    this.clockwork = setInterval(() => this.tick(), 1000);
    follow(path(domain, id, 'events'), {
      signal: this.abort.signal,
      onState: (state, err) => this.connection(state, err),
      onFrame: (frame) => this.frame(frame),
    });
  }

  build(root) {
    const { domain, id } = this;
    this.state = el('span', { className: 'state', role: 'status', ...hook('connection') });
    this.bar = el('progress', { max: 100, value: 0, 'aria-label': 'Progress of the job', ...hook('progress') });
    this.line = el('p', { className: 'quiet', ...hook('counts') });
    this.notices = el('ul', { className: 'notices', role: 'log', 'aria-label': 'Trouble of this job', ...hook('notices') });
    this.text = el('div', { className: 'tokens', tabIndex: 0, role: 'region', 'aria-label': 'Text', ...hook('tokens') });
    this.textSection = el('section', { hidden: true }, el('h2', { textContent: 'Text' }), this.text);
    this.why = el('button', { type: 'button', textContent: 'Why did this job stop?', 'aria-keyshortcuts': 'w', 'data-why': true, ...hook('why') });
    this.why.addEventListener('click', () => this.diagnose());
    this.findings = findingList('diagnosis');
    this.facts = el('dl', { className: 'facts', ...hook('facts') });
    this.answer = el('section', { hidden: true, 'aria-live': 'polite', ...hook('answer') }, el('h2', { textContent: 'Why did this job stop?' }), this.findings, this.facts);
    this.stateText = el('pre', { tabIndex: 0, 'aria-label': 'State', ...hook('state') });
    this.stateBox = el('details', { ...hook('state-box') }, el('summary', { textContent: 'State: what a late reader gets first' }), this.stateText);
    this.stateBox.addEventListener('toggle', () => this.readState());
    this.timeSection = el('section', { 'aria-labelledby': 'time-title', hidden: true }, el('h2', { id: 'time-title', textContent: 'Stages over time' }), this.timeline.node);
    this.box = el('div', { className: 'stack', ...hook('follow') },
      el('section', { className: 'job-head' },
        el('a', { className: 'back', href: `#/jobs/${domain}`, textContent: '‹ all jobs' }),
        el('h2', {}, copyable(id, 'job id'), this.state), this.bar, this.line, this.notices,
        el('div', { className: 'buttons' }, this.why,
          el('a', { className: 'button', href: `#/subscriber/${domain}/${id}`, textContent: 'As a browser gets it' }),
          el('a', { className: 'button', href: `#/publish/${domain}/${id}`, textContent: 'Publish to it' }))),
      this.answer,
      this.timeSection,
      this.textSection,
      el('section', { 'aria-labelledby': 'events-title' }, el('h2', { id: 'events-title' }, 'Events', this.table.note), this.table.node, this.stateBox));
    root.append(this.box);
    this.count();
  }

  frame({ event: name, data }) {
    if (!data) return false;
    const event = JSON.parse(data);
    if (name === 'gap') this.gap(event);
    else if (name === 'error') notice(this.notices, 'error', describe(event));
    else return this.take(event);
    return false;
  }

  take(event) {
    if (event.seq <= this.seq && !this.jump) {
      this.counts.duplicates++;
    } else {
      if (event.seq > this.seq + 1 && !this.jump) this.hole(event.seq - 1);
      this.show(event);
    }
    this.later();
    return event.final === true;
  }

  show(event) {
    const at = Date.parse(event.publish_time);
    const live = at > this.opened;
    this.table.add(event, this.at === undefined ? undefined : at - this.at, live ? Math.max(busNow() - at, 0) : undefined);
    this.timeline.add(event, at);
    this.timeSection.hidden = false;
    Object.assign(this, { seq: event.seq, jump: false, at, last: event });
    if (event.progress !== undefined) this.bar.value = event.progress;
    if (event.status === 'streaming' && event.content) this.type(event.content);
    if (event.status !== 'streaming' || event.final) this.readState();
    this.counts.events++;
  }

  type(content) {
    this.textSection.hidden = false;
    const last = this.text.lastChild;
    if (last instanceof Text) last.appendData(content);
    else this.text.append(content);
  }

  gap({ reason, oldest_id: oldest }) {
    if (reason === 'REASON_LOG_RESET') this.clear(); // all that is left comes again
    else if (this.seq > 0) this.mark('events lost here');
    this.jump = true;
    notice(this.notices, 'gap', `Events were lost: ${reason}${oldest ? `, the log now begins at ${oldest}` : ''}`);
  }

  // hole tells of events that never came, and of which nobody told: a fault.
  hole(seq) {
    this.counts.holes += seq - this.seq;
    this.mark(`events ${this.seq + 1} to ${seq} missing`);
    notice(this.notices, 'hole', `Events ${this.seq + 1} to ${seq} are missing`);
    this.seq = seq;
  }

  mark(text) {
    this.textSection.hidden = false;
    this.text.append(el('mark', { textContent: `⟪${text}⟫` }));
  }

  clear() {
    Object.assign(this, { seq: 0, at: undefined });
    this.timeline.clear();
    this.table.clear();
    this.text.replaceChildren();
    this.bar.value = 0;
  }

  // later draws with the next frame: a busy job sends more than eyes can see.
  later() {
    if (this.dirty) return;
    this.dirty = true;
    requestAnimationFrame(() => {
      this.dirty = false;
      this.timeline.draw();
      this.table.draw();
      this.count();
    });
  }

  count() {
    const { events, duplicates, holes } = this.counts;
    const idle = this.at === undefined ? undefined : busNow() - this.at;
    setText(this.line, [plural(events, 'event'), duplicates && plural(duplicates, 'duplicate'), holes && `${count(holes)} missing`,
      idle !== undefined && !this.last.final && `last one ${idle < 1000 ? 'now' : `${duration(Math.floor(idle / 1000) * 1000).replace('.0 s', ' s')} ago`}`,
      this.last?.final && `ended ${clock(this.last.publish_time)}`].filter(Boolean).join(' · '));
    Object.assign(this.line.dataset, { seq: this.seq, events, duplicates, holes });
  }

  connection(state, err) {
    if (state === 'live') this.opened = Math.min(this.opened, busNow());
    if (state === 'over') notice(this.notices, 'over', 'This job is over and nothing more of it is left.');
    if (err) notice(this.notices, 'error', err.message);
    this.box.dataset.connection = state;
    setState(this.state, state, state === 'over' ? 'finished' : state);
  }

  tick() {
    this.timeline.draw();
    this.count();
    if (!this.asked && this.box.dataset.connection === 'live' && this.last && busNow() - this.at > SILENT) this.diagnose();
  }

  // readState reads the state once for what came in a moment, if it is looked at.
  readState() {
    if (!this.stateBox.open || this.reading) return;
    this.reading = setTimeout(async () => {
      try {
        const state = await get(path(this.domain, this.id, 'state'), this.abort.signal);
        this.stateText.textContent = JSON.stringify(state, null, 2);
      } catch (err) {
        if (!this.abort.signal.aborted) this.stateText.textContent = err.message;
      }
      this.reading = null;
    }, 200);
  }

  async diagnose() {
    this.asked = true;
    this.answer.hidden = false;
    this.why.disabled = true;
    try {
      const d = await get(inspect('jobs', this.domain, this.id), this.abort.signal);
      this.answer.dataset.verdict = d.verdict;
      fillFindings(this.findings, d.findings);
      this.facts.replaceChildren(...facts(d).map(([name, value]) => el('div', {}, el('dt', { textContent: name }), el('dd', { textContent: value }))));
    } catch (err) {
      if (this.abort.signal.aborted) return;
      this.answer.dataset.verdict = 'refused';
      const needs = err.status === 403 ? ` The answer needs a grant to subscribe to ${this.domain}/*.` : '';
      fillFindings(this.findings, [{ level: 'LEVEL_WARN', text: err.message + needs }]);
    }
    this.why.disabled = false;
  }

  close() {
    this.abort.abort();
    clearInterval(this.clockwork);
    clearTimeout(this.reading);
  }
}

// facts are what a diagnosis read.
function facts({ log, shard, backlog, dead_letters: dead, final_mark: mark, retention, time }) {
  const looked = (of) => `${count(of.scanned)}${of.more ? ' and more' : ''} looked at`;
  return [
    ['Read at', clock(time, true)],
    ['Job log', log ? `${plural(log.length, 'event')}, seq ${count(log.first.seq)} to ${count(log.last.seq)}, last id ${log.last.id}` : 'none'],
    ['Kept for', log ? `${duration(millis(log.expires))} more` : `${duration(millis(retention))} after the last event`],
    ['Final event', log?.last.final ? 'yes' : mark ? 'yes, by its mark' : 'no'],
    ['Shard', `${shard.domain}:events:${shard.shard}, ${shard.owner ? `owned by ${shard.owner}` : 'without an owner'}, ${count(shard.lag)} unread, ${count(shard.pending)} pending`],
    ['Waiting there', `${count(backlog.entries)} of this job, ${looked(backlog)}`],
    ['Dead letters', `${count(dead.count)} of this job, ${looked(dead)}`],
    ...dead.letters.map((l) => [`Dead ${clock(l.time)}`, `${l.id}: ${l.reason}`]),
  ];
}

export function job(root, domain, id) {
  if (id) return new View(root, domain, id);
  empty(root, domain);
  return { close() {} };
}
