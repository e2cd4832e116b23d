// Follow jobs of an eventbus live, in a browser: each event once and in order, over
// cuts, drains and tokens that end, or a gap that says what is lost.
//
//   import { EventBus } from 'https://events.example.com/eventbus.js';
//   const bus = new EventBus();
//   const job = bus.job('scan', id);
//   job.on('event', () => show(job.progress, job.text));
//   for await (const event of job) console.log(event.stage);
//
// Without dependencies, and without a build. Types: eventbus.d.ts beside it.
//
// Two ways to read a stream give the same frames: the browser's own EventSource, where
// no header is needed and the stages are named, because it hears only event names that
// it was told; else fetch. Where an EventSource gives up, fetch asks why.

const UNAUTHENTICATED = 16; // google.rpc.Code
const CURSOR_OF_THE_START = '0-0';
// A reader that is behind by so many events stops the reading of the network.
const MAX_QUEUE = 1024;
const MAX_JOBS = 256;

/** What the bus, or the network, said for good. */
export class EventBusError extends Error {
  constructor(message, status, code) {
    super(message);
    this.name = 'EventBusError';
    this.status = status; // HTTP; 0: none
    this.code = code; // google.rpc.Code; undefined: none
  }
}

export class EventBus {
  #options;

  constructor(options = {}) {
    this.#options = {
      url: new URL(import.meta.url).origin,
      token: undefined,
      credentials: 'same-origin',
      minDelay: 500,
      maxDelay: 30_000,
      silence: 60_000,
      ...options,
    };
  }

  /** Follows one job, from its start, or after an event. */
  job(domain, jobId, options = {}) {
    const job = new Job(domain, jobId);
    const path = `/api/v1/${encodeURIComponent(domain)}/${encodeURIComponent(jobId)}/events`;
    const replay = { state: 'REPLAY_STATE', none: 'REPLAY_NONE' }[options.replay];
    const request = (begun) => {
      // A stream that began without a cursor had nothing to skip: asking again would skip what came meanwhile.
      return { path, query: new URLSearchParams(replay && !begun ? { replay } : {}) };
    };
    // What an EventSource skipped only itself knows: where it gives up, that would be lost.
    new Stream(this.#options, job, request, { native: replay ? undefined : options.stages, cursor: options.after });
    return job;
  }

  /** Follows many jobs, or all of a domain, on one connection. */
  watch(domain, options = {}) {
    return new Watch(this.#options, domain, options);
  }

  /** The latest event of a job that is final or not streaming; null where there is none. */
  async state(domain, jobId, options = {}) {
    const url = new URL(`/api/v1/${encodeURIComponent(domain)}/${encodeURIComponent(jobId)}/state`, this.#options.url);
    for (let refused = false; ; refused = true) {
      const headers = await authorization(this.#options, refused);
      const response = await fetch(url, { headers, credentials: this.#options.credentials, signal: options.signal });
      if (response.ok) return response.json();
      if (response.status === 404) return null;
      if (response.status !== 401 || refused || !this.#options.token) throw await refusal(response);
    }
  }
}

// Listeners, and an async iterator over the same items.
class Source {
  connection = 'connecting';
  error = null;
  #listeners = new Map();
  #readers = new Set();
  /** @internal */ stream = null;

  /** Listens; call what it returns to stop. */
  on(type, listener) {
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
    this.#listeners.get(type).add(listener);
    return () => this.#listeners.get(type).delete(listener);
  }

  /** Stops for good. */
  close() {
    this.stream?.stop('closed');
  }

  /** @internal */
  emit(type, detail) {
    for (const listener of this.#listeners.get(type) ?? []) {
      try {
        listener(detail, this);
      } catch (e) {
        (globalThis.reportError ?? console.error)(e); // of the page, and no reason to lose the next event
      }
    }
  }

  /** @internal */
  offer(item) {
    for (const reader of this.#readers) reader.push(item);
  }

  /** @internal */
  become(connection, error = null) {
    if (this.connection === connection) return;
    this.connection = connection;
    this.error = error;
    this.emit('connection', connection);
    if (!['over', 'closed', 'failed'].includes(connection)) return;
    if (error) this.emit('error', error);
    if (connection === 'over') this.emit('over');
    for (const reader of this.#readers) reader.end(error);
  }

  /** @internal Resolves when no reader is too far behind. */
  async room() {
    for (const reader of this.#readers) await reader.room();
  }

  /** @internal */ get isRead() {
    return this.#readers.size > 0;
  }

  [Symbol.asyncIterator]() {
    const reader = new Reader(() => this.#readers.delete(reader));
    this.#readers.add(reader);
    if (['over', 'closed', 'failed'].includes(this.connection)) reader.end(this.error);
    return reader;
  }
}

// One loop over a source.
class Reader {
  #queue = [];
  #waiting = null; // of next
  #full = null; // of room
  #ended = false;
  #error = null;
  #leave;

  constructor(leave) {
    this.#leave = leave;
  }

  push(item) {
    if (this.#ended) return;
    if (this.#waiting) this.#take(this.#waiting).resolve({ value: item, done: false });
    else this.#queue.push(item);
  }

  #take(waiting) {
    this.#waiting = null;
    return waiting;
  }

  end(error) {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#leave();
    this.#full?.();
    if (!this.#waiting) return;
    const waiting = this.#take(this.#waiting);
    if (error) waiting.reject(error);
    else waiting.resolve({ value: undefined, done: true });
  }

  room() {
    if (this.#queue.length < MAX_QUEUE || this.#ended) return undefined;
    return new Promise((resolve) => (this.#full = resolve));
  }

  async next() {
    if (this.#queue.length > 0) {
      const value = this.#queue.shift();
      if (this.#queue.length < MAX_QUEUE / 2) {
        this.#full?.();
        this.#full = null;
      }
      return { value, done: false };
    }
    if (this.#ended) {
      const error = this.#error;
      this.#error = null;
      if (error) throw error;
      return { value: undefined, done: true };
    }
    return new Promise((resolve, reject) => (this.#waiting = { resolve, reject }));
  }

  async return() {
    this.#queue = [];
    this.end(null);
    return { value: undefined, done: true };
  }
}

/** One job: what is known of it, and its events as they come. */
export class Job extends Source {
  /** @internal */ constructor(domain, id) {
    super();
    this.domain = domain;
    this.id = id;
    this.#forget();
  }

  #forget() {
    this.seq = 0;
    this.progress = undefined;
    this.stage = undefined;
    this.status = undefined;
    this.message = undefined;
    this.result = undefined;
    this.text = '';
    this.last = null;
    this.final = false;
  }

  /** Whether the job failed; it is over then. */
  get failed() {
    return this.final && this.status === 'failed';
  }

  /** @internal Returns whether nothing will follow. */
  take(event) {
    if (event.seq <= this.seq) return this.final; // seen: a resume may repeat, never skip
    this.seq = event.seq;
    this.last = event;
    this.stage = event.stage;
    this.status = event.status;
    this.final = event.final === true;
    if (event.progress !== undefined) this.progress = event.progress;
    if (event.message !== undefined) this.message = event.message;
    if (event.result !== undefined) this.result = event.result;
    if (event.content !== undefined) this.text += event.content;
    this.emit('event', event);
    this.offer(event);
    return this.final;
  }

  /** @internal */
  lose(gap) {
    this.#forget(); // what is retained comes again
    this.emit('gap', gap);
    this.offer({ ...gap, stage: 'gap' });
  }
}

/** Many jobs on one connection. */
export class Watch extends Source {
  #jobs = new Map();
  #all;

  /** @internal */
  constructor(options, domain, { jobs, stages, cursor, replay } = {}) {
    super();
    this.domain = domain;
    this.#all = jobs === undefined;
    for (const id of jobs ?? []) this.job(id);
    if (this.#jobs.size > MAX_JOBS) throw new RangeError(`jobs: ${this.#jobs.size}: at most ${MAX_JOBS} on one connection`);
    const request = () => {
      if (!this.#all && this.#jobs.size === 0) return null; // nothing to follow yet
      const query = new URLSearchParams();
      if (!this.#all) for (const id of this.#jobs.keys()) query.append('job_ids', id);
      for (const stage of stages ?? []) query.append('stages', stage);
      return { path: `/api/v1/${encodeURIComponent(domain)}/events`, query };
    };
    const start = cursor ?? (this.#all || replay === 'none' ? undefined : CURSOR_OF_THE_START);
    new Stream(options, this, request, { native: start && stages, cursor: start });
  }

  /** The jobs seen so far, by id; of a domain those that were asked for by job(). */
  get jobs() {
    return this.#jobs;
  }

  /** The helper of a job of this watch. */
  job(id) {
    if (!this.#jobs.has(id)) {
      const job = new Job(this.domain, id);
      job.connection = this.connection;
      this.#jobs.set(id, job);
    }
    return this.#jobs.get(id);
  }

  /** Follows further jobs, on a new connection that resumes; what each job has already is not repeated. */
  add(...ids) {
    if (this.#all) throw new TypeError('this watch follows all jobs of its domain');
    const before = this.#jobs.size;
    const added = ids.map((id) => this.job(id));
    if (this.#jobs.size > MAX_JOBS) {
      for (const id of [...this.#jobs.keys()].slice(before)) this.#jobs.delete(id);
      throw new RangeError(`jobs: at most ${MAX_JOBS} on one connection`);
    }
    if (this.#jobs.size > before) this.stream.restart(CURSOR_OF_THE_START);
    return added;
  }

  /** Whether each of the jobs is over. */
  get over() {
    return !this.#all && [...this.#jobs.values()].every((job) => job.final);
  }

  /** @internal */
  take(event) {
    const job = this.#jobs.get(event.job_id);
    if (job) {
      if (event.seq <= job.seq) return this.over;
      if (job.take(event)) job.become('over');
    } else if (!this.#all) {
      return this.over;
    }
    this.emit('event', event);
    this.offer(event);
    return this.over;
  }

  /** @internal */
  lose(gap) {
    for (const [id, job] of this.#jobs) if (!gap.job_id || gap.job_id === id) job.lose(gap);
    this.emit('gap', gap);
    this.offer({ ...gap, stage: 'gap' });
  }

  /** @internal */
  become(connection, error = null) {
    super.become(connection, error);
    for (const job of this.#jobs.values()) if (!job.final) job.become(connection, error);
  }
}

// A stream that is opened again until the source is over.
class Stream {
  #options;
  #source;
  #request;
  #names; // of events, for an EventSource; undefined: it cannot be one
  #cursor;
  #begun = false;
  #abort = null; // of the connection
  #wake = null; // of the pause between two
  #stopped = false;
  #native;
  #retry; // what the server asked for, in ms

  constructor(options, source, request, { native, cursor }) {
    this.#options = options;
    this.#source = source;
    this.#request = request;
    this.#names = native;
    this.#cursor = cursor;
    source.stream = this;
    queueMicrotask(() => this.#run()); // the page adds its listeners first
  }

  stop(connection, error) {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#abort?.abort();
    this.#wake?.();
    this.#source.become(connection, error);
  }

  restart(cursor) {
    this.#cursor = cursor;
    this.#abort?.abort();
    this.#wake?.();
  }

  async #run() {
    let failures = 0;
    let refused = false;
    this.#native = this.#names?.length > 0 && !this.#options.token && !this.#source.isRead && typeof EventSource !== 'undefined';
    while (!this.#stopped) {
      if (this.#request(this.#begun) === null) {
        await new Promise((resolve) => (this.#wake = resolve));
        continue;
      }
      this.#abort = new AbortController();
      this.#retry = undefined;
      let end;
      try {
        end = await (this.#native ? this.#listen(this.#abort.signal) : this.#fetch(this.#abort.signal, refused));
      } catch (error) {
        end = { kind: 'cut', error };
      }
      if (this.#stopped) return;
      if (end.opened) failures = 0;
      switch (end.kind) {
        case 'over':
          return this.stop('over');
        case 'refused':
          // A token may have ended: the next connection has another. Twice in a row is for good.
          if (end.error.status !== 401 || refused || !this.#options.token) return this.stop('failed', end.error);
          refused = true;
          continue;
        case 'again': // a given-up EventSource, or a restart
          refused = false;
          continue;
      }
      refused = end.expired === true;
      if (refused && end.opened) continue; // the token ended in mid-stream
      this.#source.become('reconnecting');
      await this.#pause(this.#retry ?? this.#delay(failures++));
    }
  }

  // Doubles, and is never the same for all browsers.
  #delay(failures) {
    const { minDelay, maxDelay } = this.#options;
    return Math.min(maxDelay, minDelay * 2 ** failures) * (0.5 + Math.random());
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        globalThis.removeEventListener?.('online', wake);
        this.#wake = null;
        resolve();
      };
      const timer = setTimeout(wake, ms);
      globalThis.addEventListener?.('online', wake); // the network is back
      this.#wake = wake;
    });
  }

  #url() {
    const { path, query } = this.#request(this.#begun);
    const url = new URL(path, this.#options.url);
    url.search = query;
    return url;
  }

  // Takes a frame; returns how the stream ends with it, or undefined.
  #take({ event, data, id }) {
    if (id) this.#cursor = id;
    if (data === undefined) return undefined;
    if (event === 'gap') {
      this.#source.lose(JSON.parse(data));
    } else if (event === 'error') {
      const status = JSON.parse(data);
      return { kind: 'cut', opened: true, expired: status.code === UNAUTHENTICATED && !!this.#options.token, error: new EventBusError(status.message, 0, status.code) };
    } else if (this.#source.take(JSON.parse(data))) {
      return { kind: 'over' };
    }
    return undefined;
  }

  // The browser's own: it reconnects and resumes by itself.
  #listen(signal) {
    const url = this.#url();
    if (this.#cursor) url.searchParams.set('last_event_id', this.#cursor);
    const source = new EventSource(url, { withCredentials: this.#options.credentials === 'include' });
    return new Promise((resolve) => {
      const end = (how) => {
        source.close();
        resolve(how);
      };
      const take = (e) => {
        const how = this.#take({ event: e.type, data: e.data, id: e.lastEventId });
        if (how?.kind === 'over') end(how); // after an error it reconnects
      };
      for (const name of new Set([...this.#names, 'gap', 'message'])) source.addEventListener(name, take);
      source.addEventListener('open', () => this.#source.become('live'));
      source.addEventListener('error', (e) => {
        if (e.data !== undefined) return; // the server's; the browser's own follows
        if (source.readyState !== EventSource.CLOSED) return this.#source.become('reconnecting');
        this.#native = false; // any status but 200 ends it for good: fetch asks which
        end({ kind: 'again' });
      });
      signal.addEventListener('abort', () => end({ kind: 'again' }));
    });
  }

  async #fetch(signal, refused) {
    const headers = { Accept: 'text/event-stream', ...(await authorization(this.#options, refused)) };
    if (this.#cursor) headers['Last-Event-ID'] = this.#cursor;
    const silence = new Silence(this.#options.silence, () => this.#abort.abort());
    try {
      const response = await fetch(this.#url(), { headers, signal, cache: 'no-store', credentials: this.#options.credentials });
      if (response.status === 204) return { kind: 'over' };
      if (!response.ok) {
        this.#retry = 1000 * Number(response.headers.get('Retry-After')) * (0.75 + Math.random() / 2) || undefined;
        const error = await refusal(response);
        return { kind: response.status === 429 || response.status >= 500 ? 'cut' : 'refused', error };
      }
      return await this.#read(response.body, silence);
    } catch (error) {
      if (signal.aborted && !this.#stopped && !silence.broken) return { kind: 'again' };
      throw error;
    } finally {
      silence.stop();
    }
  }

  async #read(body, silence) {
    let opened = false;
    const frames = new Frames();
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return { kind: 'cut', opened };
        silence.hear();
        for (const frame of frames.feed(value)) {
          if (frame.retry !== undefined) this.#retry = frame.retry;
          // An edge that sends us away says only when to come back.
          if (!opened && (frame.comment || frame.data !== undefined || frame.id)) {
            opened = this.#begun = true;
            this.#retry = undefined; // that of the opening is for EventSources; we back off
            this.#source.become('live');
          }
          const how = this.#take(frame);
          if (how) return how;
        }
        silence.stop(); // the page may take its time
        await this.#source.room();
        silence.hear();
      }
    } finally {
      reader.cancel().catch(() => {}); // it is gone, one way or the other
    }
  }
}

// Breaks a connection that is silent though heartbeats are due.
class Silence {
  broken = false;
  #ms;
  #break;
  #timer;

  constructor(ms, end) {
    this.#ms = ms;
    this.#break = () => {
      this.broken = true;
      end();
    };
    this.hear();
  }

  hear() {
    this.stop();
    this.#timer = setTimeout(this.#break, this.#ms);
  }

  stop() {
    clearTimeout(this.#timer);
  }
}

// Cuts an SSE stream into frames. A frame without its blank line is never given out.
class Frames {
  #rest = '';
  #frame = {};

  feed(text) {
    const out = [];
    const lines = (this.#rest + text).split('\n'); // the edge ends its lines so
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === '') {
        if (Object.keys(this.#frame).length > 0) out.push(this.#frame);
        this.#frame = {};
        continue;
      }
      const colon = line.indexOf(':');
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
      if (name === '') this.#frame.comment = true;
      else if (name === 'data') this.#frame.data = this.#frame.data === undefined ? value : `${this.#frame.data}\n${value}`;
      else if (name === 'retry') this.#frame.retry = Number(value);
      else if (name === 'event' || name === 'id') this.#frame[name] = value;
    }
    return out;
  }
}

async function authorization({ token }, refused) {
  const text = await token?.({ refused });
  return text ? { Authorization: `Bearer ${text}` } : {};
}

async function refusal(response) {
  const status = await response.json().catch(() => ({}));
  return new EventBusError(status.message ?? `HTTP ${response.status}`, response.status, status.code);
}
