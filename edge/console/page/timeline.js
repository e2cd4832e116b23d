// The timeline of a job: a row for each stage, a bar for each time that it ran.

import { duration, el, hook, setText } from './dom.js';

const OVER = ['completed', 'failed'];
// A stage that comes again and again, between others, has so many bars; then its last one grows.
const MAX_BARS = 100;
const place = (node, from, width) => {
  node.style.left = `min(${from}%, calc(100% - 4px))`;
  node.style.width = `${width}%`;
};

export class Timeline {
  stages = new Map(); // stage → { row, bars, head, … }
  last = null; // the bar that may grow
  over = false;

  constructor(now) {
    this.now = now; // the bus's clock, in ms
    this.list = el('ol', { className: 'timeline', ...hook('timeline') });
    this.axis = el('div', { className: 'axis quiet', 'aria-hidden': 'true' }, [0, 1, 2, 3, 4].map(() => el('span')));
    this.node = el('div', { hidden: true }, this.list, this.axis);
  }

  clear() {
    this.stages.clear();
    this.last = null;
    this.over = false;
    this.list.replaceChildren();
    this.node.hidden = true;
  }

  add(event, at) {
    this.over = event.final === true;
    const { last } = this;
    if (last?.stage === event.stage) {
      last.end = at;
    } else {
      if (last && !OVER.includes(last.status)) last.end = at; // it ran until the next one began
      const { bars } = this.stageOf(event);
      if (bars.length < MAX_BARS) bars.push({ stage: event.stage, start: at, node: el('span', { className: 'bar-of' }) });
      this.last = bars.at(-1);
      this.last.end = at;
    }
    this.last.status = event.status ?? '';
    const stage = this.stageOf(event);
    stage.times++;
    stage.event = event;
    if (event.message || (event.status !== 'streaming' && event.content)) stage.words = [event.message, event.status !== 'streaming' && event.content].filter(Boolean).join(' ');
    if (event.result !== undefined) stage.result = event.result;
    this.node.hidden = false;
  }

  stageOf(event) {
    let stage = this.stages.get(event.stage);
    if (stage) return stage;
    stage = { bars: [], times: 0, track: el('div', { className: 'track' }), status: el('span', { className: 'quiet' }), took: el('span', { className: 'took' }), note: el('p', { className: 'quiet' }) };
    stage.node = el('li', { ...hook('stage'), 'data-stage': event.stage },
      el('div', { className: 'name' }, el('strong', { textContent: event.stage, title: event.stage }), ' ', stage.status), stage.track, stage.took, stage.note);
    this.stages.set(event.stage, stage);
    this.list.append(stage.node);
    return stage;
  }

  // draw places all bars on the time from the first to the last, or to now.
  draw() {
    if (!this.last) return;
    const running = !this.over && !OVER.includes(this.last.status);
    if (running) this.last.end = Math.max(this.last.end, this.now());
    const bars = [...this.stages.values()].flatMap((s) => s.bars);
    const start = Math.min(...bars.map((b) => b.start)), span = Math.max(1, ...bars.map((b) => b.end - start));
    for (const stage of this.stages.values()) {
      for (const bar of stage.bars) {
        if (!bar.node.isConnected) stage.track.append(bar.node);
        place(bar.node, (100 * (bar.start - start)) / span, (100 * (bar.end - bar.start)) / span);
        bar.node.dataset.status = bar.status;
        bar.node.dataset.running = running && bar === this.last;
      }
      const took = stage.bars.reduce((sum, b) => sum + b.end - b.start, 0);
      setText(stage.took, took > 0 ? duration(took) : '·');
      const { event } = stage;
      stage.node.dataset.status = event.status ?? '';
      setText(stage.status, [event.status, event.final && 'final', stage.times > 1 && `×${stage.times}`].filter(Boolean).join(' · '));
      setText(stage.note, stage.words ?? '');
      if (stage.result !== undefined && stage.shown !== stage.result) this.result(stage);
    }
    [...this.axis.children].forEach((tick, i) => setText(tick, i ? `+${duration((span * i) / 4)}` : '0'));
  }

  result(stage) {
    stage.shown = stage.result;
    stage.pre ??= stage.node.appendChild(el('details', {}, el('summary', { textContent: 'result' }), el('pre', { tabIndex: 0, 'aria-label': `Result of ${stage.event.stage}`, ...hook('result') }))).lastChild;
    stage.pre.textContent = JSON.stringify(stage.result, null, 2);
  }
}
