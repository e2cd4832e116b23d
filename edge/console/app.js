// The console. The list reads the domain's Watch with fetch, because an
// EventSource hears only the event names that it was told; one job is followed
// by a native EventSource, told every stage that the list has seen. What it still
// does not hear leaves a hole in seq, which is read again from the job's log.

const MAX_ROWS = 200;
const $ = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// el makes an element; text only ever goes in as text, never as HTML.
function el(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

const api = (...parts) => 'api/v1/' + parts.map(encodeURIComponent).join('/');

// ---- HTTP ----------------------------------------------------------------

// describe is a google.rpc.Status in a line.
function describe(status) {
  const rules = (status.details ?? []).flatMap((d) => d.field_violations ?? d.fieldViolations ?? []);
  const more = rules.filter((v) => !status.message?.includes(v.description)).map((v) => `${v.field}: ${v.description}`);
  return [status.message, ...more].filter(Boolean).join(' – ');
}

class Refused extends Error {
  constructor(status, text) {
    super(`HTTP ${status}${text ? `: ${text}` : ''}`);
    this.status = status;
  }
  // Asking again cannot help.
  get forGood() { return this.status >= 400 && this.status < 500 && ![408, 429].includes(this.status); }
}

async function refusal(response) {
  let text = (await response.text()).trim();
  try { text = describe(JSON.parse(text)) || text; } catch { /* not ours: a proxy's own page */ }
  return new Refused(response.status, text.slice(0, 500) || response.statusText);
}

// read calls onFrame with every SSE frame until it returns true or the stream
// ends. It throws Refused unless the status is 200.
async function read(path, { signal, onOpen = () => {}, onFrame }) {
  const response = await fetch(path, { headers: { Accept: 'text/event-stream' }, cache: 'no-store', signal });
  if (response.status !== 200) throw await refusal(response);
  onOpen();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '', id, frame = { event: 'message', data: '' };
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      const [, field, text] = /^(\w*):? ?(.*?)\r?$/.exec(line) ?? [];
      if (field === 'id') id = text;
      else if (field === 'retry') frame.retry = Number(text);
      else if (field === 'event') frame.event = text;
      else if (field === 'data') frame.data += text;
      else if (line.trim() === '') {
        if (onFrame({ ...frame, id })) return void reader.cancel().catch(() => {});
        frame = { event: 'message', data: '' };
      }
    }
  }
}

// ---- what both halves know -------------------------------------------------

// stages are the event names to listen for; message is a stage that is no event name.
const stages = new Set(['message', 'queued', 'started', 'vision', 'rule', 'answer', 'reward', 'token', 'intent',
  'encode', 'upload', 'waiting', 'completed', 'failed', 'done']);
let domain = '', followed = null, watching = null;

// learn returns whether the stage was new.
function learn(stage) {
  if (!stage || stages.has(stage)) return false;
  stages.add(stage);
  followed?.listen(stage);
  return true;
}

function setState(node, state) {
  node.textContent = node.dataset.state = state;
}

function notice(list, kind, text) {
  const item = el('li', { textContent: text });
  item.dataset.kind = item.dataset.testid = kind;
  list.append(item);
  while (list.children.length > 20) list.firstChild.remove();
}

const clock = (event) => (event.publish_time ? new Date(event.publish_time) : new Date()).toLocaleTimeString();

// ---- the list ----------------------------------------------------------------

const rows = new Map(); // job id → { node, event, … }, at most MAX_ROWS
const dirty = new Set(); // rows to draw with the next frame: a busy domain sends more than eyes can see

function newRow(id) {
  const short = id.length > 13 ? `${id.slice(0, 8)}…` : id;
  const row = {
    id, what: el('span', { className: 'what' }), seen: el('span', { className: 'seen' }),
    bar: el('progress', { max: 100, value: 0, ariaLabel: 'Progress' }),
  };
  row.button = el('button', { type: 'button', title: id, onclick: () => go(domain, id) },
    el('code', { textContent: short }), row.what, row.seen, row.bar);
  row.button.dataset.job = id;
  if (followed?.id === id) row.button.ariaCurrent = 'true';
  row.node = el('li', {}, row.button);
  return row;
}

function listed(event) {
  let row = rows.get(event.job_id);
  if (!row) {
    if (rows.size >= MAX_ROWS) { // the oldest that is over goes, else the oldest
      const old = [...rows.values()].find((r) => r.event.final) ?? rows.values().next().value;
      rows.delete(old.id);
      dirty.delete(old);
      old.node.remove();
    }
    row = newRow(event.job_id);
    rows.set(row.id, row);
    $('jobs').prepend(row.node);
    $('none').hidden = true;
  }
  row.event = event;
  row.progress = event.progress ?? row.progress ?? 0;
  if (dirty.size === 0) requestAnimationFrame(draw);
  dirty.add(row);
}

function draw() {
  for (const { button, what, seen, bar, event, progress } of dirty) {
    what.textContent = [event.stage, event.status].filter(Boolean).join(' · ');
    seen.textContent = `#${event.seq} ${clock(event)}`;
    bar.value = progress;
    Object.assign(button.dataset, { stage: event.stage, status: event.status ?? '', seq: event.seq });
    if (event.final) button.dataset.final = event.status === 'failed' ? 'failed' : 'done';
    else delete button.dataset.final;
  }
  dirty.clear();
}

function onWatchFrame({ event: name, data }) {
  if (!data) return;
  const event = JSON.parse(data);
  if (name === 'gap') notice($('watch-notices'), 'gap', `Events were lost: ${event.reason}${event.job_id ? ` (${event.job_id})` : ''}`);
  else if (name === 'error') notice($('watch-notices'), 'error', describe(event));
  else {
    if (learn(event.stage) && followed?.id === event.job_id) followed.catchUp(event.seq);
    listed(event);
  }
}

// watch keeps the list fed until the signal aborts; it resumes at its cursor.
async function watch(signal) {
  let cursor = '', pause = 2000;
  setState($('watch'), 'connecting');
  while (!signal.aborted) {
    try {
      await read(api(domain, 'events') + (cursor && `?last_event_id=${encodeURIComponent(cursor)}`), {
        signal,
        onOpen: () => setState($('watch'), 'live'),
        onFrame: (frame) => {
          pause = frame.retry ?? pause;
          onWatchFrame(frame);
          cursor = frame.id ?? cursor;
        },
      });
    } catch (err) {
      if (signal.aborted) return;
      if (err instanceof Refused) notice($('watch-notices'), 'error', err.message);
      if (err.forGood) return setState($('watch'), 'refused');
    }
    if (signal.aborted) return;
    setState($('watch'), 'reconnecting');
    await sleep(pause * (1 + Math.random() / 2));
  }
}

// ---- one job -------------------------------------------------------------------

// Follow shows one job: events in seq order, once each. close() ends it.
class Follow {
  seq = 0; // of the last event shown
  lastId = ''; // and its id
  jump = false; // after a gap the next event may have any seq
  final = false;
  waiting = null; // while the log is read again: what came meanwhile, in order
  counts = { events: 0, duplicates: 0, repaired: 0, holes: 0 };
  items = new Map(); // stage → its item in the timeline
  abort = new AbortController();

  constructor(ofDomain, id) {
    Object.assign(this, { id, url: api(ofDomain, id, 'events'), stateUrl: api(ofDomain, id, 'state') });
    this.clear();
    $('notices').replaceChildren();
    $('followed').hidden = false;
    this.connection('connecting');
    this.start();
  }

  // start learns the stage that the job is at, which no other page may ever name again.
  async start() {
    try {
      const response = await fetch(this.stateUrl, { cache: 'no-store', signal: this.abort.signal });
      if (response.ok) learn((await response.json()).stage);
    } catch { /* the EventSource meets the same trouble and shows it */ }
    this.open();
  }

  open() {
    if (this.abort.signal.aborted) return;
    const cursor = this.lastId && `?last_event_id=${encodeURIComponent(this.lastId)}`;
    this.source = new EventSource(this.url + cursor);
    this.source.onopen = () => this.connection('live');
    this.source.onerror = (e) => {
      if (e.data !== undefined) notice($('notices'), 'error', describe(JSON.parse(e.data))); // a frame of that name
      else if (this.source.readyState === EventSource.CLOSED) this.closed();
      else this.connection('reconnecting');
    };
    this.source.addEventListener('gap', (e) => this.take({ gap: JSON.parse(e.data) }));
    for (const stage of stages) this.listen(stage);
  }

  listen(stage) {
    this.source?.addEventListener(stage, (e) => this.take(JSON.parse(e.data)));
  }

  close() {
    this.abort.abort();
    this.source?.close();
  }

  // take shows the next event; on a hole it reads the log again first.
  take(event) {
    if (this.waiting) this.waiting.push(event);
    else if (event.gap) this.gap(event.gap);
    else if (event.seq <= this.seq && !this.jump) this.count('duplicates');
    else if (event.seq === this.seq + 1 || this.jump) this.show(event);
    else this.repair(event.seq - 1, [event]);
  }

  // catchUp is told by the list that the job has reached seq, in a stage that
  // was unknown until now.
  catchUp(seq) {
    if (!this.waiting && seq > this.seq) this.repair(seq, []);
  }

  // repair reads the log up to seq, then takes what waits.
  async repair(seq, waiting) {
    this.waiting = waiting;
    try {
      await this.reread(seq);
    } catch { /* what is still missing shows as a hole */ }
    if (this.abort.signal.aborted) return;
    this.waiting = null;
    if (waiting.length > 0 && waiting[0].seq > this.seq + 1) this.hole(waiting[0].seq - 1);
    for (const event of waiting) {
      if (event.gap || event.seq > this.seq || this.waiting) this.take(event); // the rest was just read
    }
  }

  // reread shows what follows in the log, up to seq, for at most 5 s. What the
  // log itself skips is a hole.
  async reread(seq) {
    await read(this.url + (this.lastId && `?last_event_id=${encodeURIComponent(this.lastId)}`), {
      signal: AbortSignal.any([this.abort.signal, AbortSignal.timeout(5000)]),
      onFrame: ({ event: name, data }) => {
        if (!data) return false;
        const event = JSON.parse(data);
        if (name === 'gap') this.gap(event);
        else if (name === 'error') notice($('notices'), 'error', describe(event));
        else if (event.seq > seq) return true; // it waits already
        else if (event.seq > this.seq || this.jump) {
          if (event.seq > this.seq + 1 && !this.jump) this.hole(event.seq - 1);
          learn(event.stage);
          this.count('repaired');
          this.show(event);
        }
        return this.seq >= seq || this.final;
      },
    });
  }

  // closed runs when the EventSource gave up. It does not tell why; fetch does.
  async closed() {
    this.connection('reconnecting');
    if (this.final) return;
    try {
      await this.reread(Infinity);
    } catch (err) {
      if (this.abort.signal.aborted) return;
      if (err.status === 204) {
        notice($('notices'), 'over', 'This job is over and nothing more of it is left.');
        this.final = true;
      } else if (err.forGood) {
        notice($('notices'), 'error', err.message);
        return this.connection('refused');
      }
    }
    this.connection('reconnecting');
    if (this.final) return;
    await sleep(2000 + 1000 * Math.random());
    this.open();
  }

  connection(state) {
    if (this.final) state = 'finished';
    $('follow').dataset.connection = state;
    $('follow').dataset.readyState = this.source?.readyState ?? EventSource.CONNECTING;
    if ($('connection').textContent !== state) setState($('connection'), state);
  }

  clear() {
    this.seq = 0;
    this.items.clear();
    $('stages').replaceChildren();
    $('tokens').replaceChildren();
    $('progress').value = 0;
    this.count();
  }

  gap({ reason, oldest_id: oldest }) {
    if (reason === 'REASON_LOG_RESET') this.clear(); // all that is left comes again
    else if (this.seq > 0) this.mark('events lost here');
    this.jump = true;
    notice($('notices'), 'gap', `Events were lost: ${reason}${oldest ? `, the log now begins at ${oldest}` : ''}`);
  }

  // hole tells that the events up to seq never came, neither live nor from the log.
  hole(seq) {
    this.count('holes', seq - this.seq);
    this.mark(`events ${this.seq + 1} to ${seq} missing`);
    notice($('notices'), 'hole', `Events ${this.seq + 1} to ${seq} are missing`);
    this.seq = seq;
  }

  mark(text) {
    $('tokens').append(el('mark', { textContent: `⟪${text}⟫` }));
  }

  count(what, n = 1) {
    if (what) this.counts[what] += n;
    const { events, duplicates, repaired, holes } = this.counts;
    $('counts').textContent = `seq ${this.seq} · ${events} events · ${repaired} read again · ${duplicates} duplicates · ${holes} missing`;
    Object.assign($('counts').dataset, { seq: this.seq, events, duplicates, repaired, holes });
  }

  show(event) {
    Object.assign(this, { seq: event.seq, lastId: event.id, jump: false });
    if (event.progress !== undefined) $('progress').value = event.progress;
    if (event.status === 'streaming' && event.content) this.text(event.content);
    this.stage(event);
    this.count('events');
    if (event.final) {
      this.final = true; // the server ends the stream; the EventSource comes back once, for a 204
      this.connection('finished');
    }
  }

  text(content) {
    const last = $('tokens').lastChild;
    if (last instanceof Text) last.appendData(content);
    else $('tokens').append(content);
  }

  stage(event) {
    let item = this.items.get(event.stage);
    if (!item) {
      item = { node: el('li'), head: el('div'), message: el('div', { className: 'quiet' }), times: 0 };
      item.node.append(el('strong', { textContent: event.stage }), ' ', item.head, item.message);
      Object.assign(item.node.dataset, { testid: 'stage', stage: event.stage });
      this.items.set(event.stage, item);
      $('stages').append(item.node);
    }
    item.times++;
    item.node.dataset.status = event.status ?? '';
    item.head.textContent = [event.status, event.final && 'final', item.times > 1 && `×${item.times}`, clock(event)].filter(Boolean).join(' · ');
    const words = [event.message, event.status !== 'streaming' && event.content].filter(Boolean).join(' ');
    if (words) item.message.textContent = words;
    if (event.result !== undefined) {
      item.result ??= item.node.appendChild(el('pre', { tabIndex: 0, ariaLabel: `Result of ${event.stage}` }));
      item.result.dataset.testid = 'result';
      item.result.textContent = JSON.stringify(event.result, null, 2);
    }
  }
}

// ---- publish -------------------------------------------------------------------

// uuid is for http:// hosts too, where browsers hide randomUUID.
const uuid = () => crypto.randomUUID?.()
  ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');

let key = ''; // kept until the event is acknowledged or edited: sending again is then safe

async function publish() {
  const { job_id: job, progress, final, ...text } = Object.fromEntries(new FormData($('publish')));
  const event = Object.fromEntries(Object.entries(text).filter(([, value]) => value !== ''));
  if (progress !== '') event.progress = Number(progress);
  if (final) event.final = true;
  key ||= uuid();
  const out = $('published');
  out.textContent = 'Publishing…';
  try {
    const response = await fetch(api(domain, job, 'events'), {
      method: 'POST', headers: { 'Content-Type': 'application/json', 'Idempotency-Key': key }, body: JSON.stringify(event),
    });
    if (!response.ok) throw await refusal(response);
    const { id, duplicate } = await response.json();
    key = '';
    out.textContent = `Acknowledged as ${id}${duplicate ? ' (was known)' : ''}`;
    out.dataset.ok = 'true';
    go(domain, job);
  } catch (err) {
    out.textContent = err instanceof Refused ? err.message : `Not sent: ${err.message}. Sending again is safe.`;
    out.dataset.ok = 'false';
  }
}

// ---- the hash: #domain or #domain/job ----------------------------------------

function go(toDomain, job) {
  location.hash = [toDomain, job].filter(Boolean).join('/'); // neither may hold what a hash cannot
}

function route() {
  const [toDomain = '', job = ''] = location.hash.slice(1).split('/');
  if (!toDomain) return go('scan');
  if (toDomain !== domain) {
    domain = toDomain;
    $('domain').value = domain;
    for (const link of document.querySelectorAll('[data-domain]')) link.ariaCurrent = link.dataset.domain === domain ? 'page' : null;
    rows.clear();
    dirty.clear();
    $('jobs').replaceChildren();
    $('watch-notices').replaceChildren();
    $('none').hidden = false;
    followed?.close();
    followed = null;
    watching?.abort();
    watching = new AbortController();
    watch(watching.signal);
  }
  if (job === (followed?.id ?? '')) return;
  followed?.close();
  followed = job ? new Follow(domain, job) : null;
  if (!followed) $('followed').hidden = true;
  $('job').value = job;
  $('publish').elements.job_id.value = job || uuid();
  if (job && matchMedia('(max-width: 50rem)').matches) $('follow').scrollIntoView(); // one column
  for (const { button, id } of rows.values()) button.ariaCurrent = id === job ? 'true' : null;
}

const onSubmit = (id, run) => $(id).addEventListener('submit', (e) => { e.preventDefault(); run(); });
onSubmit('domain-form', () => go($('domain').value));
onSubmit('follow-form', () => go(domain, $('job').value.trim()));
onSubmit('publish', publish);
$('publish').addEventListener('input', () => { key = ''; });
$('new-job').addEventListener('click', () => { $('publish').elements.job_id.value = uuid(); key = ''; });
addEventListener('hashchange', route);
$('publish').elements.job_id.value = uuid();
route();
