// The publish form: the router's rules are told before anything is sent, and what the
// router says after it.

import { path, post, Refused } from './api.js';
import { cluster } from './cluster-data.js';
import { el, hook } from './dom.js';
import { check } from './rules.js';

// uuid is for http:// hosts too, where browsers hide randomUUID.
const uuid = () => crypto.randomUUID?.()
  ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');

const FIELDS = [
  ['domain', 'Domain', { required: true, autocomplete: 'off' }],
  ['job_id', 'Job id', { required: true, wide: true }],
  ['stage', 'Stage', { required: true, value: 'vision' }],
  ['status', 'Status', { value: 'started', list: 'statuses' }],
  ['progress', 'Progress', { inputMode: 'numeric', placeholder: '0–100' }],
  ['message', 'Message', { wide: true }],
  ['content', 'Content', { wide: true, tag: 'textarea' }],
  ['result', 'Result, any JSON', { wide: true, tag: 'textarea', placeholder: '{"category":"can"}' }],
  ['attributes', 'Attributes, a JSON object of texts', { wide: true, placeholder: '{"model":"gpt-x"}' }],
  ['traceparent', 'Traceparent', { wide: true, placeholder: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' }],
  ['key', 'Idempotency key', { wide: true, placeholder: 'one is made: sending again is then safe' }],
];

function field([name, label, { wide, tag = 'input', ...props }]) {
  const input = el(tag, { name, autocapitalize: 'none', autocomplete: 'off', spellcheck: false, ...(tag === 'textarea' && { rows: 2 }), 'aria-describedby': `rule-${name}`, ...props, ...hook(`publish-${name.replace('_', '-')}`) });
  const rule = el('span', { className: 'rule', id: `rule-${name}`, ...hook(`rule-${name}`) });
  return { name, input, rule, node: el('label', { className: wide ? 'wide' : '' }, el('span', { textContent: label }), input, rule) };
}

export function publish(root, [domain = cluster.domains()[0] ?? 'scan', id = '']) {
  const fields = FIELDS.map(field);
  const by = Object.fromEntries(fields.map((f) => [f.name, f]));
  by.domain.input.value = domain;
  by.job_id.input.value = id || uuid();
  by.job_id.input.dataset.first = '';
  const final = el('input', { type: 'checkbox', name: 'final', ...hook('publish-final') });
  const anew = el('button', { type: 'button', className: 'plain', textContent: 'New job id', ...hook('publish-new') });
  const out = el('output', { className: 'wide', ...hook('published') });
  const form = el('form', { className: 'publish', noValidate: true, ...hook('publish') }, fields.map((f) => f.node),
    el('label', { className: 'check wide' }, final, 'Final: the job’s last event'),
    el('div', { className: 'buttons wide' }, el('button', { textContent: 'Publish', ...hook('publish-send') }), anew), out,
    el('datalist', { id: 'statuses' }, ['started', 'streaming', 'completed', 'failed', 'waiting'].map((s) => el('option', { value: s }))));
  let key = ''; // kept until the event is acknowledged or edited: sending again is then safe

  const read = () => ({ ...Object.fromEntries(fields.map((f) => [f.name, f.input.value])), final: final.checked });

  // tell marks the fields that break a rule, those that were touched or all.
  function tell(errors, all) {
    for (const { name, input, rule } of fields) {
      if (all) input.dataset.touched = '';
      const wrong = input.dataset.touched === undefined ? undefined : errors[name];
      rule.textContent = wrong ?? '';
      if (wrong) input.setAttribute('aria-invalid', 'true');
      else input.removeAttribute('aria-invalid');
    }
  }
  form.addEventListener('input', (e) => {
    key = '';
    e.target.dataset.touched = '';
    tell(check(read()).errors);
  });
  anew.addEventListener('click', () => {
    key = '';
    by.job_id.input.value = uuid();
    tell(check(read()).errors);
  });
  form.addEventListener('submit', async (e) => {
    e.preventDefault();
    const values = read();
    const { event, errors } = check(values);
    tell(errors, true);
    const wrong = fields.find((f) => errors[f.name]);
    if (wrong) {
      wrong.input.focus();
      out.dataset.ok = 'false';
      out.textContent = `Not sent: ${wrong.name} ${errors[wrong.name]}.`;
      return;
    }
    key ||= values.key || uuid();
    out.textContent = 'Publishing…';
    delete out.dataset.ok;
    try {
      const { id: at, duplicate } = await post(path(values.domain, values.job_id, 'events'), key, event);
      key = '';
      out.replaceChildren(`Acknowledged as ${at}${duplicate ? ' (was known)' : ''}. `, el('a', { href: `#/jobs/${values.domain}/${values.job_id}`, textContent: 'Look at the job', ...hook('publish-look') }));
      out.dataset.ok = 'true';
    } catch (err) {
      out.textContent = err instanceof Refused ? err.message : `Not sent: ${err.message}. Sending again is safe.`;
      out.dataset.ok = 'false';
    }
  });
  root.append(el('section', { className: 'narrow', 'aria-labelledby': 'publish-title' }, el('h1', { id: 'publish-title', textContent: 'Publish a test event' }), form));
  return { title: 'Publish', close() {} };
}
