// The cluster: routers, shards and their owners, both Redis, and the settings that
// explain what is seen.

import { cluster } from './cluster-data.js';
import { bytes, clock, count, duration, el, hook, millis, plural } from './dom.js';
import { fillFindings, findingList, locked } from './overview.js';

// kind is what a head begins with: - is left out in a small window, # is of numbers.
const kind = (head) => [head.startsWith('-') && 'wide', /^-?#/.test(head) && 'number'].filter(Boolean).join(' ');

// table is rows of cells below a head; a cell is a text, a node, or [text, level].
function table(name, head, rows, label) {
  return el('table', { 'aria-label': label, ...hook(name) },
    el('thead', {}, el('tr', {}, head.map((text) => el('th', { textContent: text.replace(/^[-#]+/, ''), scope: 'col', className: kind(text) })))),
    el('tbody', {}, rows.map((cells) => el('tr', {}, cells.map((cell, i) => {
      const [text, level] = Array.isArray(cell) ? cell : [cell];
      return el(i ? 'td' : 'th', { className: kind(head[i]), 'data-level': level, ...(!i && { scope: 'row' }) }, text);
    })))));
}

const members = (d) => table('members', ['Router', '#Shards', '-#Lives for', ''], d.members.map((m) =>
  [m.name, count(m.shards), duration(millis(m.lives)), m.answers ? 'answers here' : '']), 'Routers');

const shards = (d) => table('shards-table', ['Shard', 'Owner', '#Lag', '#Pending', '#Oldest', '-#Length', '-#Appended'], d.shards.map((s) => [
  `${s.domain}:events:${s.shard}`, s.owner || ['no owner', 'fail'], count(s.lag), count(s.pending),
  s.oldest ? [duration(millis(s.oldest)), millis(s.oldest) > 10_000 ? 'warn' : ''] : '–', count(s.length), s.added ? count(s.added) : '–',
]), 'Shards');

function redis(r) {
  const rows = r.embedded ? [['Role', 'embedded in this process; nothing outlives it']] : r.error ? [['State', [r.error, 'fail']]] : [
    ['Role', [r.role, r.role === 'master' ? 'ok' : 'fail']], ['Version', r.version],
    ['Memory', `${bytes(r.used_memory)} of ${r.max_memory ? `${bytes(r.max_memory)}, ${Math.round((100 * r.used_memory) / r.max_memory)} %` : 'no limit'}`],
    ['Eviction', r.policy], ['Append-only file', r.append_only ? 'yes' : ['no', r.use === 'streams' ? 'warn' : '']],
    ['Replicas', count(r.replicas)], ['Round trip', duration(millis(r.ping))],
  ];
  if (r.use === 'pubsub') {
    rows.push(['Probe', r.trouble ? [r.trouble, 'warn'] : r.probed ? `back in ${duration(millis(r.probe))} at ${clock(r.probed)}` : 'none yet']);
  }
  return el('section', { ...hook(`redis-${r.use}`) }, el('h2', {}, r.use === 'pubsub' ? 'Pub/Sub Redis' : 'Streams Redis', el('span', { className: 'quiet', textContent: r.address })),
    el('dl', { className: 'facts' }, rows.map(([name, cell]) => {
      const [text, level] = Array.isArray(cell) ? cell : [cell];
      return el('div', {}, el('dt', { textContent: name }), el('dd', { textContent: text || '–', 'data-level': level }));
    })));
}

const settings = (title, name, all) => el('section', {}, el('h2', { textContent: title }),
  el('dl', { className: 'facts', ...hook(name) }, all.map((s) => el('div', {}, el('dt', {}, el('code', { textContent: s.name })), el('dd', { textContent: s.value })))));

const own = (d) => table('own', ['Counted by', '#since its start'], [
  [`${d.router.name}: published`, count(d.router.published)], [`${d.router.name}: projected`, count(d.router.projected)], [`${d.router.name}: announced`, count(d.router.announced)],
  [`${d.router.name}: lost announcements made up for`, count(d.router.repairs)], [`${d.router.name}: gaps told`, count(d.router.gaps)],
  [`${d.edge.name}: delivered to browsers`, count(d.edge.delivered)], [`${d.edge.name}: gaps told`, count(d.edge.gaps)],
  [`${d.edge.name}: cut, as they did not read`, count(d.edge.slow)], [`${d.edge.name}: streams refused`, count(d.edge.refused)],
], 'Counts');

const dead = (d) => table('dead', ['Domain', '#Number', 'The last one'], d.domains.map((one) => [
  one.name, [count(one.dead_letters), one.dead_letters ? 'warn' : ''], one.dead_letters ? `${clock(one.dead_time)}: ${one.dead_reason}` : '–',
]), 'Dead letters');

export function clusterPage(root) {
  const findings = findingList('cluster-findings');
  const body = el('div', { className: 'stack' });
  root.append(el('h1', { textContent: 'Cluster', className: 'sr' }), body);
  let shown = '';
  const stop = cluster.watch(() => {
    const { data, error } = cluster;
    if (!data) {
      shown = '';
      return body.replaceChildren(locked(error));
    }
    fillFindings(findings, data.findings);
    // What was typed, selected or focused stays while nothing changes but the time.
    const { time, ...rest } = data;
    if (body.contains(getSelection().focusNode) && !getSelection().isCollapsed) return;
    const text = JSON.stringify(rest);
    if (text === shown) return;
    shown = text;
    body.replaceChildren(
      el('section', { hidden: data.findings.length === 0 }, el('h2', { textContent: 'What is wrong' }), findings),
      el('div', { className: 'columns' },
        el('section', {}, el('h2', {}, 'Routers', el('span', { className: 'quiet', textContent: count(data.members.length) })), members(data)),
        ...data.redis.map(redis)),
      el('section', {}, el('h2', {}, 'Shards', el('span', { className: 'quiet', textContent: `${data.shards.length} in ${plural(data.domains.length, 'domain')}` })), shards(data)),
      el('div', { className: 'columns' },
        el('section', {}, el('h2', { textContent: 'Dead letters' }), dead(data)), el('section', {}, el('h2', { textContent: 'Counts' }), own(data)),
        settings(`Settings of ${data.router.name}`, 'settings-router', data.settings), settings(`Settings of this edge`, 'settings-edge', data.edge.settings)),
    );
  });
  return { title: 'Cluster', close: stop };
}
