// Plays rollouts in order of revelation. One state, drawn by `show`; keys, buttons and slider only change the state.

const COLORINGS = ['step', 'confidence', 'advantage', 'ratio'];
const KEYS = [
  ['← →', 'one step back, forward'], ['space', 'play, pause'], ['home end', 'all masked, all revealed'], ['n p', 'next, previous rollout'],
  ['N P', 'next, previous update'], ['1 2 3 4', 'colour by step, confidence, advantage, ratio'], ['[ ]', 'read the previous, next token'],
  ['b', 'training, or before and after RL'], ['?', 'show these keys'],
];

class Viewer {
  constructor(data) {
    this.data = data;
    this.runs = data.runs.map((run, index) => ({ index, name: run.name, sets: run.rollouts.filter((set) => set.update !== null),
      start: run.rollouts.find((set) => set.name === 'eval-start'), end: run.rollouts.find((set) => set.name === 'eval-end') }))
      .filter((run) => run.sets.length || run.start || run.end);
    this.state = { run: 0, compare: false, set: 0, row: 0, step: 0, color: 'step', cursor: null };
    this.timer = null;
  }

  mount(section) {
    section.append(el('h2', { id: 'rollouts-title' }, 'Rollouts'));
    if (!this.runs.length) {
      section.append(el('p', {}, 'There are no rollouts to show: train.log_rollouts is 0, or the run is older than this viewer.'));
      return;
    }
    section.append(el('p', { class: 'soft small' }, 'A rollout starts as masks; each step reveals some tokens. Choose one and play it.'));
    this.build(section);
    const run = this.runs[0];
    this.state.set = Math.max(0, run.sets.length - 1);
    this.state.compare = !run.sets.length;
    this.open();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.recolor());
    new ResizeObserver(() => this.strips()).observe(this.panes);
  }

  build(section) {
    const button = (text, act, more = {}) => el('button', { type: 'button', onclick: act, ...more }, text);
    const choice = (label, change) => el('select', { 'aria-label': label, onchange: (event) => change(Number(event.target.value)) });
    this.runSelect = choice('Run', (index) => this.change({ run: index, set: 0, row: 0 }));
    this.setSelect = choice('Update', (index) => this.change({ set: index, row: 0 }));
    this.rowSelect = choice('Rollout', (index) => this.change({ row: index }));
    this.modes = [button('Training', () => this.change({ compare: false, row: 0 })), button('Before and after RL', () => this.change({ compare: true, row: 0 }))];
    this.setGroup = el('span', { class: 'group' }, 'update', button('‹', () => this.turn('set', -1), { 'aria-label': 'previous update' }), this.setSelect, button('›', () => this.turn('set', 1), { 'aria-label': 'next update' }));
    this.rowGroup = el('span', { class: 'group' }, this.rowWord = el('span', {}, 'rollout'), button('‹', () => this.turn('row', -1), { 'aria-label': 'previous rollout' }), this.rowSelect, button('›', () => this.turn('row', 1), { 'aria-label': 'next rollout' }));
    this.colors = COLORINGS.map((name) => button(name, () => this.paint(name)));
    this.playButton = button('▶ play', () => this.toggle(), { class: 'button' });
    this.slider = el('input', { type: 'range', min: 0, 'aria-label': 'Denoising step', oninput: () => this.go(Number(this.slider.value)) });
    this.status = el('span', { class: 'status', role: 'status', 'aria-live': 'polite' });
    this.legend = el('div', { class: 'legend' });
    this.token = el('div', { class: 'token soft' });
    this.help = el('div', { class: 'keys', hidden: true }, ...KEYS.map(([key, what]) => el('span', {}, ...key.split(' ').flatMap((one) => [el('kbd', {}, one), ' ']), what)));
    this.helpButton = button('Keys', () => this.toggleHelp(), { 'aria-expanded': 'false' });
    this.prompt = el('details', { class: 'prompt', open: true }, el('summary', {}, 'prompt'), el('p', {}));
    this.panes = el('div', { class: 'panes' });
    this.node = el('div', { class: 'viewer', tabindex: 0, role: 'group', 'aria-label': 'Rollout viewer. Arrow keys step, space plays, question mark lists all keys.' },
      el('div', { class: 'row' }, this.runs.length > 1 ? el('span', { class: 'group' }, 'run', this.runSelect) : null, el('span', { class: 'group', role: 'group', 'aria-label': 'What to show' }, ...this.modes), this.setGroup, this.rowGroup),
      el('div', { class: 'row' }, el('span', { class: 'group', role: 'group', 'aria-label': 'Colour by' }, el('span', { class: 'word' }, 'colour by'), ...this.colors), this.helpButton),
      this.help, el('div', { class: 'play' }, this.playButton, this.slider, this.status, this.token), this.prompt, this.panes, this.legend);
    this.node.addEventListener('keydown', (event) => this.key(event));
    section.append(this.node);
  }

  get run() { return this.runs[this.state.run]; }

  /** The rollouts on show, left to right: one in training; before and after for one prompt. */
  chosen() {
    const { compare, set, row } = this.state;
    const wrap = (title, raw) => ({ title, rollout: raw ? new Rollout(raw, this.data) : null });
    if (!compare) return [wrap(null, this.run.sets[set].rows[row])];
    const [before, after] = this.pairs()[row];
    return [wrap('before RL', before), wrap('after RL', after)];
  }

  /** Rollouts of the evaluation at the start and at the end, by prompt. */
  pairs() {
    const rows = (set) => (set ? set.rows : []);
    const ends = new Map(rows(this.run.end).map((raw) => [raw.prompt_id, raw]));
    const found = rows(this.run.start).map((raw) => [raw, ends.get(raw.prompt_id)]);
    const seen = new Set(rows(this.run.start).map((raw) => raw.prompt_id));
    return [...found, ...rows(this.run.end).filter((raw) => !seen.has(raw.prompt_id)).map((raw) => [undefined, raw])];
  }

  change(values) {
    Object.assign(this.state, values);
    this.open();
  }

  /** Show the rollouts of the embedded update nearest to one. */
  showUpdate(update) {
    if (!this.runs.length || !this.run.sets.length) return;
    const updates = this.run.sets.map((set) => set.update);
    this.change({ compare: false, set: nearest(updates, update), row: 0 });
    this.node.scrollIntoView({ block: 'start' });
    this.node.focus({ preventScroll: true });
  }

  turn(name, by) {
    const count = name === 'set' ? this.run.sets.length : this.rows().length;
    if (name === 'set' && this.state.compare) return;
    const next = clamp(this.state[name] + by, 0, count - 1);
    if (next !== this.state[name]) this.change(name === 'set' ? { set: next, row: Math.min(this.state.row, this.run.sets[next].rows.length - 1) } : { row: next });
  }

  rows() {
    return this.state.compare ? this.pairs() : this.run.sets[this.state.set].rows;
  }

  /** Draw the chosen rollouts anew, finished. */
  open() {
    this.pause();
    const { state, run } = this;
    if (state.compare && !run.start && !run.end) state.compare = false;
    if (!state.compare && !run.sets.length) state.compare = true;
    state.set = clamp(state.set, 0, Math.max(0, run.sets.length - 1));
    state.row = clamp(state.row, 0, this.rows().length - 1);
    this.shown = this.chosen();
    for (const one of this.shown) one.pane = one.rollout ? this.pane(one) : this.missing(one);
    this.live = this.shown.filter((one) => one.rollout);
    this.panes.className = this.shown.length > 1 ? 'panes two' : 'panes';
    this.panes.replaceChildren(...this.shown.map((one) => one.pane));
    const prompt = this.live.map((one) => one.rollout.prompt).find((text) => text !== null);
    this.prompt.hidden = prompt === undefined;
    this.prompt.lastElementChild.textContent = prompt ?? '';
    this.longest = Math.max(...this.live.map((one) => one.rollout.last));
    this.slider.max = String(this.longest);
    state.cursor = null;
    this.token.textContent = 'Point at a token to read it, or press ].';
    this.choices();
    if (!this.live.some((one) => one.rollout.has(state.color))) state.color = 'step';
    this.go(this.longest);
    this.recolor();
  }

  choices() {
    const { state, run } = this;
    const options = (select, texts, at) => {
      select.replaceChildren(...texts.map((text, i) => el('option', { value: i }, text)));
      select.value = String(at);
    };
    options(this.runSelect, this.runs.map((one) => `${letter(one.index)} ${one.name}`), state.run);
    options(this.setSelect, run.sets.map((set) => String(set.update)), state.set);
    options(this.rowSelect, this.rows().map((row, i) => this.rowName(row, i)), state.row);
    this.rowWord.textContent = state.compare ? 'prompt' : 'rollout';
    this.setGroup.hidden = state.compare;
    this.modes[0].setAttribute('aria-pressed', String(!state.compare));
    this.modes[1].setAttribute('aria-pressed', String(state.compare));
    this.modes[0].disabled = !run.sets.length;
    this.modes[1].disabled = !run.start && !run.end;
  }

  rowName(row, i) {
    const word = (raw) => (raw ? number(raw.outcome) : '–');
    if (this.state.compare) return `${i + 1}: outcome ${word(row[0])} → ${word(row[1])}`;
    return `${i + 1}: prompt ${row.prompt_id ?? '–'}, outcome ${word(row)}`;
  }

  missing({ title }) {
    return el('div', { class: 'pane' }, el('h3', {}, title), el('p', { class: 'soft' }, 'There is no rollout of this prompt: the run has not come so far, or it could not be graded.'));
  }

  pane(one) {
    const { rollout, title } = one;
    one.cells = rollout.texts.map((_, i) => el('span', { 'data-i': i }));
    const breaks = (i) => (rollout.texts[i].includes('\n') ? el('br') : null);
    const roomy = Math.max(...rollout.texts.map((text, i) => (rollout.reveal[i] < rollout.raw.steps ? columns(shownText(text)) : 1))) <= 2;
    one.canvas = el('div', { class: roomy ? 'cells roomy' : 'cells', dir: 'ltr', onpointerover: (event) => this.point(one, event.target.dataset.i) }, ...one.cells.flatMap((cell, i) => [cell, breaks(i)]));
    if (!roomy) one.cells.forEach((cell, i) => { cell.style.minWidth = `${rollout.reveal[i] < rollout.raw.steps ? columns(shownText(rollout.texts[i])) : 1}ch`; });
    one.strip = svg('svg', { class: 'strip', role: 'img', 'aria-label': 'Order of revelation: position from left to right, step from top to bottom', onclick: (event) => this.stripClick(one, event) });
    return el('div', { class: 'pane' }, title ? el('h3', {}, title) : null, this.meta(rollout.raw), one.canvas, one.strip);
  }

  meta(raw) {
    const parts = [];
    const add = (label, value) => parts.push(parts.length ? ' · ' : '', `${label} `, el('b', {}, value));
    if (isNumber(raw.outcome)) add('outcome', number(raw.outcome));
    if (isNumber(raw.reward)) add('reward', number(raw.reward));
    for (const [name, value] of Object.entries(raw.components ?? {})) add(name, isNumber(value) ? number(value) : '–');
    if (isNumber(raw.advantage)) add('advantage', number(raw.advantage));
    if (isNumber(raw.forwards)) add('forwards', `${raw.forwards} of ${raw.steps}`);
    if (raw.finish_reason) add('ended by', raw.finish_reason);
    if (raw.group_id !== undefined && !this.state.compare) add('group', String(raw.group_id));
    const extras = Object.entries(raw.extras ?? {}).map(([name, value]) => `${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`);
    return el('div', { class: 'meta' }, ...parts, extras.length ? el('div', {}, extras.join(' · ')) : null);
  }

  go(step) {
    this.state.step = clamp(step, 0, this.longest);
    this.slider.value = String(this.state.step);
    for (const one of this.live) this.show(one);
    const at = this.state.step;
    const open = this.live.map(({ rollout }) => rollout.texts.filter((_, i) => rollout.isOpen(i, at)).length);
    const counts = this.live.map(({ rollout }, k) => `${open[k]} of ${rollout.count}`).join(' and ');
    this.status.textContent = `step ${at} of ${this.longest} · ${counts} revealed`;
    this.slider.setAttribute('aria-valuetext', this.status.textContent);
    if (at >= this.longest) this.pause();
  }

  show(one) {
    const { rollout, cells } = one;
    const step = Math.min(this.state.step, rollout.last);
    cells.forEach((cell, i) => {
      const open = rollout.isOpen(i, step);
      const classes = [];
      if (!open) classes.push('mask');
      if (!open && rollout.reveal[i] >= rollout.raw.steps) classes.push('never');
      if (rollout.hints.has(i)) classes.push('hint');
      if (open && rollout.uncounted.has(i) && !rollout.hints.has(i)) classes.push('uncounted');
      if (open && rollout.reveal[i] === this.state.step - 1 && this.state.step < rollout.last) classes.push('new');
      if (this.state.cursor === i) classes.push('at');
      cell.className = classes.join(' ');
      const text = open ? shownText(rollout.texts[i]) : '';
      if (cell.textContent !== text) cell.textContent = text;
      const fill = open ? one.fills?.[i] : null;
      const under = classes.includes('uncounted');
      cell.style.backgroundColor = fill && !under ? fill.back : '';
      cell.style.borderBottomColor = fill && under ? fill.back : '';
      cell.style.color = fill && !under ? fill.ink : '';
    });
    this.strip(one, step);
  }

  paint(name) {
    if (!this.live.some((one) => one.rollout.has(name))) return;
    this.state.color = name;
    this.recolor();
  }

  /** Colours of all tokens for the chosen kind and theme. Both sides of a comparison share a scale. */
  recolor() {
    if (!this.live) return;
    const name = this.state.color;
    const reach = Math.max(...this.live.map((one) => one.rollout.reach(name)), name === 'ratio' ? Math.log(1.01) : 1e-3);
    for (const one of this.live) {
      one.fills = one.cells.map((_, i) => {
        const value = one.rollout.value(name, i);
        if (value === null) return null;
        const color = valueColor(name, value, one.rollout, reach);
        return { back: `rgb(${color.join(',')})`, ink: inkOn(color) };
      });
      this.show(one);
    }
    this.colors.forEach((button, i) => {
      button.setAttribute('aria-pressed', String(COLORINGS[i] === name));
      button.disabled = !this.live.some((one) => one.rollout.has(COLORINGS[i]));
    });
    this.drawLegend(name, reach);
  }

  drawLegend(name, reach) {
    const longest = this.live.reduce((most, one) => (one.rollout.last > most.last ? one.rollout : most), this.live[0].rollout);
    const scale = scaleOf(name, longest, reach);
    const bar = el('i', {});
    bar.style.background = `linear-gradient(to right, ${scale.stops.join(', ')})`;
    const some = (test) => this.live.some(({ rollout }) => rollout.texts.some((_, i) => test(rollout, i)));
    const sample = (kind, text, word) => el('span', {}, el('span', { class: 'cells' }, el('span', { class: kind }, text)), ` ${word}`);
    this.legend.replaceChildren(
      el('span', { class: 'scale' }, scale.low, bar, scale.high), sample('mask', '\u2003', 'masked'),
      some((rollout, i) => rollout.hints.has(i)) ? sample('hint', 'hint', 'given') : '',
      some((rollout, i) => !rollout.drawn(i) && !rollout.hints.has(i)) ? sample('mask never', '\u2003', 'never revealed') : '',
      some((rollout, i) => rollout.uncounted.has(i) && rollout.drawn(i)) ? sample('uncounted', 'text', 'not counted in the loss') : '',
      some((rollout, i) => ENDS.test(rollout.texts[i])) ? el('span', {}, '∎ end of text') : '');
  }

  strips() {
    for (const one of this.live ?? []) this.strip(one, Math.min(this.state.step, one.rollout.last));
  }

  /** Position against step: a left-to-right order is a diagonal, a free order a cloud. */
  strip(one, step) {
    const { rollout, strip } = one;
    const width = Math.round(strip.clientWidth || this.panes.clientWidth / this.shown.length || 600);
    const left = 34;
    const height = clamp(rollout.last * 9, 40, 110);
    const across = (width - left - 4) / Math.max(1, rollout.count);
    const down = (height - 8) / Math.max(1, rollout.last);
    const wide = clamp(across * 0.85, 1.5, 14);
    const tall = clamp(down * 0.9, 2.2, 8);
    const line = 4 + step * down;
    const dots = rollout.reveal.flatMap((at, i) => {
      if (!rollout.drawn(i)) return [];
      const fill = at < step ? one.fills?.[i]?.back : null;
      return [svg('rect', { x: (left + (i + 0.5) * across - wide / 2).toFixed(1), y: (4 + (at + 0.5) * down - tall / 2).toFixed(1), width: wide.toFixed(1), height: tall.toFixed(1),
        ...(fill ? { fill, class: 'dot' } : { class: 'later' }) })];
    });
    strip.setAttribute('viewBox', `0 0 ${width} ${height + 16}`);
    strip.setAttribute('height', height + 16);
    one.stripScale = { width, down };
    strip.replaceChildren(
      svg('text', { x: left - 6, y: 11, 'text-anchor': 'end' }, 'step'), svg('text', { x: left - 6, y: height, 'text-anchor': 'end' }, String(rollout.last)),
      svg('line', { class: 'axis', x1: left, x2: left, y1: 2, y2: height }), ...dots,
      svg('line', { class: 'hair', x1: left, x2: width - 4, y1: line, y2: line }),
      svg('text', { x: left, y: height + 13 }, 'position 0'), svg('text', { x: width - 4, y: height + 13, 'text-anchor': 'end' }, String(rollout.count - 1)));
  }

  stripClick(one, event) {
    const box = one.strip.getBoundingClientRect();
    const y = ((event.clientY - box.top) / box.width) * one.stripScale.width;
    this.pause();
    this.go(Math.round((y - 4) / one.stripScale.down));
  }

  point(one, index) {
    if (index === undefined) return;
    const [position, text, ...rest] = one.rollout.describe(Number(index));
    const open = one.rollout.isOpen(Number(index), this.state.step);
    const words = open ? [position, text, ...rest] : [position, 'masked'];
    this.token.replaceChildren(el('b', {}, one.title ? `${one.title}, ${words[0]}` : words[0]), ` · ${words.slice(1).join(' · ')}`);
  }

  move(by) {
    const one = this.live.at(-1);
    const from = this.state.cursor ?? (by > 0 ? -1 : 0);
    this.state.cursor = clamp(from + by, 0, one.rollout.count - 1);
    for (const other of this.live) this.show(other);
    this.point(one, this.state.cursor);
  }

  toggle() {
    if (this.timer) {
      this.pause();
      return;
    }
    if (this.state.step >= this.longest) this.go(0);
    this.playButton.textContent = '❚❚ pause';
    this.status.setAttribute('aria-live', 'off'); // many steps a second: nothing to read out
    this.timer = setInterval(() => this.go(this.state.step + 1), clamp(7000 / this.longest, 60, 700));
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.playButton.textContent = '▶ play';
    this.status.setAttribute('aria-live', 'polite');
  }

  toggleHelp() {
    this.help.hidden = !this.help.hidden;
    this.helpButton.setAttribute('aria-expanded', String(!this.help.hidden));
  }

  key(event) {
    const tag = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || tag === 'SELECT') return;
    const native = (tag === 'INPUT' && /^(Arrow|Home|End)/.test(event.key)) || ((tag === 'BUTTON' || tag === 'SUMMARY') && event.key === ' ');
    if (native) return;
    const acts = {
      ArrowRight: () => this.step(1), ArrowLeft: () => this.step(-1), Home: () => this.step(-Infinity), End: () => this.step(Infinity), ' ': () => this.toggle(),
      n: () => this.turn('row', 1), p: () => this.turn('row', -1), N: () => this.turn('set', 1), P: () => this.turn('set', -1),
      '[': () => this.move(-1), ']': () => this.move(1), b: () => this.change({ compare: !this.state.compare, row: 0 }), '?': () => this.toggleHelp(),
    };
    COLORINGS.forEach((name, i) => { acts[String(i + 1)] = () => this.paint(name); });
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  step(by) {
    this.pause();
    this.go(this.state.step + by);
  }
}
