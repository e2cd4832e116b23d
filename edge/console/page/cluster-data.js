// What the edge tells of the cluster, asked for again and again while somebody looks,
// and the rates that follow. What is in Redis is the same for all routers; what a
// router counts is its own, and so is what an edge counts: a sample is compared with
// the one before of the same router or edge.

import { get, inspect, token } from './api.js';
import { millis } from './dom.js';

const EVERY = 2000;
const KEPT = 60; // samples of a rate

class Rate {
  constructor(at, value) { Object.assign(this, { at, value, now: undefined }); }
  next(at, value) {
    if (at <= this.at) return;
    this.now = value >= this.value ? ((value - this.value) * 1000) / (at - this.at) : undefined; // it began anew
    Object.assign(this, { at, value });
  }
}

// rates by what is counted, and whose it is: a router, an edge, or '' for all.
const rates = new Map();
const histories = new Map();
const listeners = new Set();
let timer, asking, skews = [];

export const cluster = {
  data: null, // the last answer
  error: null, // why there is none: Refused, or a TypeError of the network
  at: 0, // when it came, by this machine's clock
  skew: 0, // how far the router's clock is ahead of this machine's, in ms

  // rate is the sum over those who count; undefined where it is not known yet.
  rate(what) {
    const known = [...(rates.get(what)?.values() ?? [])].filter((r) => r.now !== undefined && cluster.at - r.at < 15 * EVERY);
    return known.length ? known.reduce((sum, r) => sum + r.now, 0) : undefined;
  },
  // heard is how many of those who count were asked by now.
  heard: (what) => rates.get(what)?.size ?? 0,
  history: (what) => histories.get(what) ?? [],
  sum: (of) => (cluster.data?.shards ?? []).reduce((sum, shard) => sum + of(shard), 0),
  oldest: () => Math.max(-1, ...(cluster.data?.shards ?? []).map((s) => millis(s.oldest) ?? -1)),
  domains: () => (cluster.data?.domains ?? []).map((d) => d.name),
  worst: () => cluster.data?.findings[0]?.level ?? 'LEVEL_OK',

  // watch calls run after every answer until stop is called.
  watch(run) {
    listeners.add(run);
    if (cluster.data || cluster.error) run();
    return () => listeners.delete(run);
  },
};

function note(what, whose, at, value) {
  if (!rates.has(what)) rates.set(what, new Map());
  const of = rates.get(what);
  if (of.has(whose)) of.get(whose).next(at, value);
  else of.set(whose, new Rate(at, value));
}

function take(data) {
  const at = Date.parse(data.time);
  const { router, edge } = data;
  // An answer is never younger than now, and up to a second older: the youngest tell.
  skews = [...skews, at - Date.now()].slice(-8);
  cluster.skew = Math.max(...skews);
  const told = data.shards.some((s) => s.added > 0); // the embedded Redis does not count
  note('published', told ? '' : router.name, at, told ? data.shards.reduce((n, s) => n + s.added, 0) : router.published);
  note('passed', told ? '' : router.name, at, told ? data.shards.reduce((n, s) => n + s.done, 0) : router.projected);
  for (const what of ['projected', 'announced']) note(what, router.name, at, router[what]);
  const living = new Set(['', router.name, ...data.members.map((m) => m.name)]);
  for (const what of ['published', 'passed', 'projected', 'announced']) {
    for (const whose of rates.get(what).keys()) if (!living.has(whose)) rates.get(what).delete(whose);
  }
  for (const what of ['delivered', 'encoded']) note(what, edge.name, at, edge[what]);
  for (const what of rates.keys()) {
    const now = cluster.rate(what);
    if (now !== undefined) histories.set(what, [...cluster.history(what), now].slice(-KEPT));
  }
}

async function ask() {
  clearTimeout(timer);
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  try {
    const data = await get(inspect('cluster'), AbortSignal.any([signal, AbortSignal.timeout(10_000)]));
    cluster.at = Date.now();
    take(data);
    Object.assign(cluster, { data, error: null });
  } catch (err) {
    if (signal.aborted) return;
    Object.assign(cluster, { error: err, data: err.forGood ? null : cluster.data });
  }
  for (const run of listeners) run();
  const first = cluster.data && cluster.history('published').length === 0; // a rate needs two
  timer = setTimeout(() => { if (!document.hidden) ask(); }, first ? EVERY / 2 + 100 : cluster.error?.forGood ? 5 * EVERY : EVERY);
}

// start asks while the page is seen; a new token asks at once.
export function start() {
  ask();
  token.onChange(ask);
  document.addEventListener('visibilitychange', () => { if (!document.hidden) ask(); });
}
