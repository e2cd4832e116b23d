// Elements and the texts of numbers. Text only ever goes in as text, never as HTML:
// what jobs carry is anybody's.

export const $ = (id) => document.getElementById(id);
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// el makes an element: attributes with a dash and data-… are attributes, the rest are
// properties; what is undefined or false is left out.
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (name.includes('-') || name === 'role' || name === 'for' || name === 'list') node.setAttribute(name, value === true ? '' : value);
    else node[name] = value;
  }
  node.append(...children.flat().filter((c) => c !== undefined && c !== null && c !== false));
  return node;
}

// hook is what tests find an element by.
export const hook = (name) => ({ 'data-testid': name });

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// setState shows a word and gives the style its name.
export function setState(node, state, text = state) {
  setText(node, text);
  node.dataset.state = state;
}

export function notice(list, kind, text) {
  const item = el('li', { textContent: text, ...hook(kind), 'data-kind': kind });
  list.append(item);
  while (list.children.length > 20) list.firstChild.remove();
  return item;
}

// copyable is a text, or the beginning of it, that a click copies.
export function copyable(text, label, shown = text) {
  const button = el('button', { type: 'button', className: 'copy', title: `Copy ${label} ${text}` }, el('code', { textContent: shown }));
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.dataset.copied = 'copied';
    } catch {
      getSelection().selectAllChildren(button); // a page without https may not write
    }
    setTimeout(() => { delete button.dataset.copied; }, 1500);
  });
  return button;
}

// ---- texts -----------------------------------------------------------------

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat('en', { maximumFractionDigits: 1, minimumFractionDigits: 1 });

export const count = (n) => whole.format(n ?? 0);

// rate is events a second; undefined where it is not known yet.
export const rate = (n) => (n === undefined ? '–' : n > 0 && n < 99.95 ? tenth.format(n) : whole.format(n));

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

export function bytes(n) {
  if (!n) return '0';
  const unit = Math.min(Math.floor(Math.log2(n) / 10), 4);
  return `${unit ? tenth.format(n / 2 ** (10 * unit)) : n} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

// duration is milliseconds as people read them.
export function duration(ms) {
  if (ms === undefined || Number.isNaN(ms)) return '–';
  if (ms < 1000 && Number.isInteger(ms)) return `${ms} ms`;
  if (ms < 10) return `${Math.max(ms, 0).toFixed(ms < 1 ? 2 : 1)} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.floor(ms / 1000) % 60} s`;
  if (ms < 172_800_000) return `${Math.floor(ms / 3_600_000)} h ${Math.floor(ms / 60_000) % 60} min`;
  return `${Math.floor(ms / 86_400_000)} days`;
}

// ago is how long something is over, to the second.
export const ago = (ms) => (ms < 1000 ? 'now' : `${duration(ms < 60_000 ? Math.floor(ms / 1000) * 1000 : ms).replace('.0 s', ' s')} ago`);

// millis reads a google.protobuf.Duration; undefined where it is unset.
export const millis = (text) => (text ? parseFloat(text) * 1000 : undefined);

const two = (n) => String(n).padStart(2, '0');

export function clock(time, withMillis = false) {
  const d = new Date(time);
  const text = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  return withMillis ? `${text}.${String(d.getMilliseconds()).padStart(3, '0')}` : text;
}

// svg makes a part of a drawing.
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag); // a name, not an address
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
