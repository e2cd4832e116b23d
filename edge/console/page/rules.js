// The rules of a publish, as the router has them: settings.rules has their texts and
// patterns, which come from the router's own code. check returns what is wrong, a text
// for each field.

import { settings } from './settings.js';

const MAX_ATTRIBUTES = 64;
const MAX_NESTING = 32;
const encoder = new TextEncoder();

// keeps tells whether a text keeps a rule of names.
export function keeps(rule, text) {
  const { pattern, not = [], empty = false } = settings.rules[rule];
  return (empty && text === '') || (new RegExp(`^(?:${pattern})$`, 'u').test(text) && !not.includes(text));
}

function depth(value) {
  if (value === null || typeof value !== 'object') return 0;
  return 1 + Math.max(0, ...Object.values(value).map(depth));
}

function readJSON(errors, field, text) {
  try {
    return JSON.parse(text);
  } catch (err) {
    errors[field] = `must be JSON: ${err.message}`;
    return undefined;
  }
}

function attributes(errors, text) {
  const value = readJSON(errors, 'attributes', text);
  if (value === undefined) return undefined;
  if (value === null || typeof value !== 'object' || Array.isArray(value) || Object.values(value).some((v) => typeof v !== 'string')) {
    errors.attributes = 'must be a JSON object of texts, {"model":"gpt-x"}';
  } else if (Object.keys(value).length > MAX_ATTRIBUTES) {
    errors.attributes = `must be at most ${MAX_ATTRIBUTES}`;
  } else if (Object.keys(value).some((k) => k === '' || encoder.encode(k).length > 128)) {
    errors.attributes = 'keys must be 1-128 bytes';
  }
  return value;
}

// check reads a form's texts: { event, errors }.
export function check(form) {
  const errors = {}, event = {};
  for (const [field, rule] of [['domain', 'domain'], ['job_id', 'job_id'], ['stage', 'stage'], ['key', 'key']]) {
    if (!keeps(rule, form[field])) errors[field] = settings.rules[rule].rule;
  }
  for (const field of ['stage', 'status', 'message', 'content', 'traceparent']) {
    if (form[field]) event[field] = form[field];
  }
  if (form.progress !== '') {
    event.progress = Number(form.progress);
    if (!/^\d+$/.test(form.progress) || event.progress > 100) errors.progress = 'must be 0-100';
  }
  if (form.attributes) event.attributes = attributes(errors, form.attributes);
  if (form.result) {
    event.result = readJSON(errors, 'result', form.result);
    if (depth(event.result) > MAX_NESTING) errors.result = `must nest at most ${MAX_NESTING} levels`;
  }
  if (form.final) event.final = true;
  return { event, errors };
}
