// The overview: an event's way, hop by hop, with what flows and what waits there.

import { cluster } from './cluster-data.js';
import { bytes, count, duration, el, hook, millis, plural, rate, setText, svg } from './dom.js';

const LEVELS = { LEVEL_OK: 'ok', LEVEL_NOTE: 'note', LEVEL_WARN: 'warn', LEVEL_FAIL: 'fail' };
const WORDS = { ok: 'well', note: 'well', warn: 'look here', fail: 'does not work' };
export const levelOf = (finding) => LEVELS[finding.level] ?? 'note';

const node = (data, use) => data.redis.find((r) => r.use === use) ?? {};
const answers = (r) => (r.embedded ? 'embedded' : r.error ? 'away' : r.role || '–');

// The hops in order: what each is, and what it says: a number, its unit, and lines.
const HOPS = [
  {
    id: 'publish', name: 'Publishers', what: 'workers publish by gRPC or HTTP; old ones append',
    says: () => [rate(cluster.rate('published')), 'events / s', ['from all producers']],
    flow: 'published',
  },
  {
    id: 'log', name: 'Shard logs', what: 'Streams Redis: the truth',
    says: (d) => {
      const waits = cluster.sum((s) => s.lag + s.pending), oldest = cluster.oldest();
      return [count(waits), waits === 1 ? 'event waits' : 'events wait', [oldest >= 0 ? `the oldest for ${duration(oldest)}` : 'nothing is behind', `${plural(d.shards.length, 'shard')} · ${answers(node(d, 'streams'))}`]];
    },
    flow: 'published',
  },
  {
    id: 'bridge', name: 'Bridge', what: 'each shard has one owner, who takes batches',
    says: (d) => {
      const owned = d.shards.filter((s) => s.owner).length;
      return [rate(cluster.rate('passed')), 'events / s', [`${owned} of ${d.shards.length} shards owned`, `by ${plural(d.members.length, 'router')}`]];
    },
    flow: 'passed',
  },
  {
    id: 'joblog', name: 'Job logs', what: 'each job in order, and its state',
    says: (d) => {
      const r = node(d, 'streams');
      return [rate(cluster.rate('projected')), 'events / s', [r.embedded ? 'in this process' : `${bytes(r.used_memory)} in Redis`, r.max_memory ? `${Math.round((100 * r.used_memory) / r.max_memory)} % of its memory` : r.embedded ? 'nothing outlives it' : 'no maxmemory', routersHeard(d, 'projected')]];
    },
    flow: 'announced',
  },
  {
    id: 'pubsub', name: 'Pub/Sub', what: 'announcements: a hint, never the truth',
    says: (d) => {
      const r = node(d, 'pubsub');
      return [rate(cluster.rate('announced')), 'events / s', [r.probe ? `probe ${duration(millis(r.probe))}` : 'not probed yet', d.router.degraded ? 'degraded' : answers(r), routersHeard(d, 'announced')]];
    },
    flow: 'announced',
  },
  {
    id: 'hub', name: "Routers' hubs", what: 'one topic for each job that is watched',
    says: (d) => [count(d.router.topics), d.router.topics === 1 ? 'job watched' : 'jobs watched', [plural(d.router.subscribers, 'subscription'), `counted by ${d.router.name}`]],
    flow: 'delivered',
  },
  {
    id: 'edge', name: 'Edge', what: 'encodes an event once, for all browsers',
    says: (d) => [rate(cluster.rate('encoded')), 'encoded / s', [`${plural(d.edge.topics, 'job')} followed`, edgesHeard(d)]],
    flow: 'delivered',
  },
  {
    id: 'browser', name: 'Browsers', what: 'EventSource: resumes by itself',
    says: (d) => [rate(cluster.rate('delivered')), 'delivered / s', [`${plural(d.edge.job_streams, 'stream')} of a job`, `${count(d.edge.watch_streams)} of a domain`]],
  },
];

const edgesHeard = (d) => (cluster.heard('encoded') > 1 ? `${cluster.heard('encoded')} edges heard` : `counted by ${d.edge.name}`);
const routersHeard = (d, what) => (d.members.length > 1 ? `${cluster.heard(what)} of ${d.members.length} routers heard` : '');

const CHARTS = [
  ['published', 'Published', 'appended to the shard logs'], ['passed', 'Passed on', 'read, put into job logs, acknowledged'],
  ['announced', 'Announced', 'sent to the hubs'], ['delivered', 'Delivered', 'to browsers of this edge'],
];

// spark is a small chart of a rate.
function spark() {
  const line = svg('polyline', { class: 'line' }), area = svg('polygon', { class: 'area' });
  const drawing = svg('svg', { viewBox: '0 0 120 32', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, area, line);
  return {
    drawing,
    draw(values) {
      const most = Math.max(1, ...values), from = 120 - (values.length - 1) * 2;
      const points = values.map((v, i) => `${from + i * 2},${(31 - (29 * v) / most).toFixed(2)}`);
      line.setAttribute('points', points.join(' '));
      area.setAttribute('points', points.length ? `${from},32 ${points.join(' ')} 120,32` : '');
    },
  };
}

export function findingList(name) {
  return el('ul', { className: 'findings', ...hook(name) });
}

// fillFindings shows findings, worst first as they come; what stays the same stays.
export function fillFindings(list, findings) {
  const text = JSON.stringify(findings);
  if (list.dataset.shown === text) return;
  list.dataset.shown = text;
  list.replaceChildren(...findings.map((f) => {
    const level = levelOf(f);
    return el('li', { 'data-level': level, ...hook('finding') },
      el('span', { className: 'mark', textContent: { ok: 'OK', note: 'Note', warn: 'Warning', fail: 'Failure' }[level] }),
      el('span', {}, f.text, f.mend && el('span', { className: 'mend', textContent: f.mend })));
  }));
}

function hopCard(hop) {
  const parts = {
    value: el('strong', { className: 'value', ...hook(`hop-${hop.id}-value`) }), unit: el('span', { className: 'unit' }),
    lines: [0, 1, 2].map(() => el('span', { className: 'quiet' })), word: el('span', { className: 'word', ...hook(`hop-${hop.id}-word`) }),
  };
  parts.card = el('li', { 'data-hop': hop.id, 'data-level': 'none', title: hop.what },
    el('span', { className: 'dot', 'aria-hidden': 'true' }), el('h3', { textContent: hop.name }), parts.word,
    el('p', { className: 'number' }, parts.value, ' ', parts.unit), ...parts.lines);
  return parts;
}

function drawHop(hop, parts, data) {
  const [value, unit, lines] = hop.says(data);
  setText(parts.value, value);
  setText(parts.unit, unit);
  parts.lines.forEach((line, i) => setText(line, lines[i] ?? ''));
  const mine = data.findings.filter((f) => f.hop === hop.id);
  const level = mine.length ? levelOf(mine[0]) : 'ok';
  parts.card.dataset.level = level === 'note' ? 'ok' : level;
  parts.card.dataset.flows = (cluster.rate(hop.flow) ?? 0) > 0;
  setText(parts.word, WORDS[level]);
}

// owners is a cell for each shard, a row for each domain.
function shardGrid(data, grid) {
  const domains = [...new Set(data.shards.map((s) => s.domain))];
  const text = JSON.stringify(data.shards.map((s) => [s.domain, s.shard, s.owner, s.lag, s.pending, !!s.oldest && millis(s.oldest) > 10_000]));
  if (grid.dataset.shown === text) return;
  grid.dataset.shown = text;
  grid.replaceChildren(...domains.map((domain) => el('div', { className: 'shard-row' },
    el('a', { href: `#/jobs/${domain}`, textContent: domain, title: `Jobs of ${domain}` }),
    el('div', { className: 'cells' }, data.shards.filter((s) => s.domain === domain).map((s) => {
      const waits = s.lag + s.pending;
      const level = !s.owner ? 'fail' : millis(s.oldest) > 10_000 ? 'warn' : 'ok';
      const says = `shard ${s.shard}: ${s.owner ? `owned by ${s.owner}` : 'no owner'}, ${waits === 1 ? '1 event waits' : `${count(waits)} events wait`}`;
      return el('span', { className: 'cell', title: says, 'data-level': level },
        el('span', { className: 'quiet', textContent: s.shard, 'aria-hidden': 'true' }), el('span', { textContent: s.owner ? count(waits) : 'no owner', 'aria-label': says }));
    })))));
}

// locked is what stands in place of data that may not be seen.
export function locked(error) {
  const forbidden = [401, 403].includes(error.status);
  return el('div', { className: 'locked', ...hook('locked') },
    el('h2', { textContent: forbidden ? 'This needs a token' : error.status === 501 ? 'The routers are older than this edge' : 'The edge does not answer' }),
    el('p', { textContent: forbidden ? 'What is told of the cluster is for operators: a token with a grant to subscribe to */*.' : error.message }),
    forbidden && el('p', { className: 'quiet', textContent: error.message }),
    forbidden && el('button', { type: 'button', textContent: 'Give a token', onclick: () => document.getElementById('token-open').click() }));
}

export function overview(root) {
  const way = el('ol', { className: 'way', 'aria-label': "An event's way", ...hook('way') });
  const cards = HOPS.map((hop) => [hop, hopCard(hop)]);
  way.append(...cards.map(([, parts]) => parts.card));
  const findings = findingList('findings');
  const well = el('p', { className: 'well', textContent: 'Nothing is wrong: every shard is read, both Redis answer, announcements arrive.', ...hook('well') });
  const charts = CHARTS.map(([what, name, title]) => ({ what, value: el('strong', { ...hook(`rate-${what}`) }), name, title, ...spark() }));
  const grid = el('div', { className: 'shards', ...hook('shards') });
  const body = el('div', { className: 'stack' },
    el('section', { 'aria-labelledby': 'way-title' }, el('h2', { id: 'way-title', textContent: "An event's way" }), way),
    el('section', { 'aria-labelledby': 'wrong-title' }, el('h2', { id: 'wrong-title', textContent: 'What is wrong' }), well, findings),
    el('section', { className: 'charts', 'aria-label': 'The last two minutes' }, charts.map((c) => el('figure', { title: c.title },
      el('figcaption', {}, el('span', { textContent: c.name }), el('span', {}, c.value, ' / s')), c.drawing))),
    el('section', { 'aria-labelledby': 'shards-title' }, el('h2', { id: 'shards-title' }, 'Shards', el('span', { className: 'quiet', textContent: 'events that wait, by shard' })), grid));
  root.append(el('h1', { textContent: 'Overview', className: 'sr' }), body);
  let gate = null;
  const stop = cluster.watch(() => {
    gate?.remove();
    gate = cluster.data ? null : locked(cluster.error);
    body.hidden = !cluster.data;
    if (gate) return root.append(gate);
    for (const [hop, parts] of cards) drawHop(hop, parts, cluster.data);
    for (const c of charts) {
      setText(c.value, rate(cluster.rate(c.what)));
      c.draw(cluster.history(c.what));
    }
    fillFindings(findings, cluster.data.findings);
    well.hidden = cluster.data.findings.some((f) => ['warn', 'fail'].includes(levelOf(f)));
    shardGrid(cluster.data, grid);
  });
  body.hidden = !cluster.data;
  return { title: 'Overview', close: stop };
}
