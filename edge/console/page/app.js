// The console: one page, whose place is in the hash.
//
//   #/                       overview.js     an event's way
//   #/jobs/DOMAIN/JOB        jobs.js, job.js live jobs, and one of them
//   #/subscriber/DOMAIN/JOB  subscriber.js   what a browser gets
//   #/cluster                cluster.js      routers, shards, Redis
//   #/publish/DOMAIN/JOB     publish.js      a form
//
// A page is a function of an element and the rest of the hash; what it returns closes
// it. Names of domains and jobs hold nothing that a hash cannot.

import { token } from './api.js';
import { cluster, start } from './cluster-data.js';
import { clusterPage } from './cluster.js';
import { $, setText } from './dom.js';
import { jobs } from './jobs.js';
import { levelOf, overview } from './overview.js';
import { publish } from './publish.js';
import { load } from './settings.js';
import { subscriber } from './subscriber.js';

const PAGES = { overview, jobs, subscriber, cluster: clusterPage, publish };
let shown = { name: '', page: null };

function route() {
  const hash = location.hash.slice(1);
  if (hash && !hash.startsWith('/')) return location.replace(`#/jobs/${hash}`); // #domain/job, of old
  const [name, ...rest] = hash.split('/').slice(1);
  const page = PAGES[name || 'overview'] ? name || 'overview' : 'overview';
  const args = rest.filter(Boolean).map(decodeURIComponent);
  const title = shown.name === page && shown.page.reroute?.(args);
  if (title) return called(title);
  shown.page?.close();
  $('main').replaceChildren();
  const first = shown.name === '';
  shown = { name: page, page: PAGES[page]($('main'), args) };
  document.body.dataset.page = page;
  for (const link of $('pages').children) {
    if (link.dataset.page === page) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  called(shown.page.title);
  scrollTo(0, 0);
  if (!first) $('main').focus({ preventScroll: true });
}

function called(title) { document.title = `${title} · eventbus`; }

// ---- how it is, in a word ------------------------------------------------------

function health() {
  const { data, error } = cluster;
  const bad = (data?.findings ?? []).filter((f) => ['warn', 'fail'].includes(levelOf(f)));
  const fails = bad.filter((f) => levelOf(f) === 'fail').length;
  const [level, text] = error
    ? error.status ? ['none', [401, 403].includes(error.status) ? 'needs a token' : 'not known'] : ['fail', 'edge is away']
    : fails ? ['fail', fails === 1 ? '1 failure' : `${fails} failures`]
      : bad.length ? ['warn', bad.length === 1 ? '1 warning' : `${bad.length} warnings`] : ['ok', 'all is well'];
  $('health').dataset.level = level;
  setText($('health'), text);
}

// ---- token -------------------------------------------------------------------

function describeToken() {
  const claims = token.read();
  const until = claims?.exp && new Date(claims.exp * 1000);
  const list = (what) => [claims.eventbus?.[what] ?? []].flat().join(', ') || 'nothing';
  setText($('token-says'), !token.get() ? 'There is none.' : !claims ? 'This is no JSON Web Token.'
    : [`Of ${claims.sub ?? 'nobody'}`, until && `${until < Date.now() ? 'ended' : 'ends'} ${until.toLocaleString()}`, `subscribe: ${list('subscribe')}`, `publish: ${list('publish')}`].filter(Boolean).join(' · '));
  $('token-open').dataset.set = token.get() !== '';
}

$('token-open').addEventListener('click', () => {
  $('token-text').value = token.get();
  describeToken();
  $('token').showModal();
});
$('token-form').addEventListener('submit', (e) => {
  e.preventDefault();
  token.set($('token-text').value.trim().replace(/^Bearer\s+/i, ''));
  if (token.read()) $('token').close();
});
$('token-forget').addEventListener('click', () => {
  $('token-text').value = '';
  token.set('');
});
token.onChange(() => {
  describeToken();
  shown.page?.close();
  shown = { name: '', page: null };
  route();
});

// ---- keyboard ------------------------------------------------------------------

// move goes to the next job of the list, from the one with the focus or the one shown.
function move(step) {
  const links = [...document.querySelectorAll('.jobs li:not([hidden]) a')];
  const at = links.indexOf(document.activeElement);
  const next = at >= 0 ? at + step : Math.max(links.findIndex((l) => l.hasAttribute('aria-current')), 0);
  links[Math.min(Math.max(next, 0), links.length - 1)]?.focus();
}

const KEYS = {
  '?': () => $('help').showModal(),
  t: () => $('token-open').click(),
  '/': () => document.querySelector('[data-first]')?.focus(),
  j: () => move(1),
  k: () => move(-1),
  w: () => document.querySelector('[data-why]')?.click(),
  ...Object.fromEntries([...$('pages').children].map((link, i) => [String(i + 1), () => link.click()])),
};

document.addEventListener('keydown', (e) => {
  const typing = e.target.closest('input, textarea, select');
  if (e.key === 'Escape' && typing && !e.target.closest('dialog')) return e.target.blur();
  if (typing || e.ctrlKey || e.metaKey || e.altKey || document.querySelector('dialog[open]')) return;
  const run = Object.hasOwn(KEYS, e.key) && KEYS[e.key];
  if (!run) return;
  e.preventDefault();
  run();
});

$('help-open').addEventListener('click', () => $('help').showModal());
$('skip').addEventListener('click', () => $('main').focus());
for (const button of document.querySelectorAll('[data-close]')) button.addEventListener('click', () => button.closest('dialog').close());

await load();
addEventListener('hashchange', route);
describeToken();
cluster.watch(health);
start();
route();
