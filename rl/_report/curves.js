// The figures of the page: aligned small multiples over the same updates, read together at one update.

const WINDOWS = [1, 5, 10, 25, 50];

class Curves {
  constructor(data, openRollouts) {
    this.data = data;
    this.many = data.runs.length > 1;
    this.entries = [];
    this.last = Math.max(1, ...data.runs.flatMap((run) => [...run.curves.x, ...run.evaluations.map((row) => row.update)]));
    const points = Math.max(0, ...data.runs.map((run) => run.curves.x.length));
    this.window = points < 30 ? 1 : points < 150 ? 5 : 10;
    this.pinned = this.last;
    this.openRollouts = openRollouts;
  }

  mount(section) {
    section.append(el('h2', { id: 'curves-title' }, 'Curves'));
    if (!this.data.runs.some((run) => run.curves.x.length || run.evaluations.length || run.warm_start.x.length)) {
      section.append(el('p', {}, 'No update, evaluation or warm start has been written yet.'));
      return;
    }
    section.append(this.control());
    section.append(this.options(),
      el('p', { class: 'soft small' }, 'All figures share one horizontal axis, the update. Thin lines are single updates, bold ones their ' +
        'running mean. Whiskers are 95 % intervals. Move over a figure, or use the slider, to read all of them at one update; ',
        'triangles mark health alarms, filled ones those that stopped the run.'));
    this.learning(section);
    this.panels(section);
    for (const run of this.data.runs) {
      if (run.single.length) section.append(el('p', { class: 'soft small' }, `Written once${this.many ? ` by ${run.name}` : ''}: ${run.single.join(', ')}.`));
    }
    this.observer = new ResizeObserver(() => this.draw());
    for (const grid of section.querySelectorAll('.grid')) this.observer.observe(grid);
    this.draw();
  }

  control() {
    this.slider = el('input', { type: 'range', min: 0, max: this.last, value: this.last, id: 'at', oninput: () => this.pin(Number(this.slider.value)) });
    this.output = el('output', { for: 'at' });
    const rollouts = this.data.runs.some((run) => run.rollouts.some((set) => set.update !== null));
    return el('div', { class: 'control' },
      el('div', { class: 'reading' }, el('label', { for: 'at' }, 'Read at'), this.slider, this.output),
      rollouts ? el('button', { type: 'button', onclick: () => this.openRollouts(this.pinned) }, 'See its rollouts') : null);
  }

  options() {
    const window = el('select', { id: 'window', onchange: (event) => this.setWindow(Number(event.target.value)) },
      ...WINDOWS.map((width) => el('option', { value: width, selected: width === this.window }, width === 1 ? 'off' : `${width}`)));
    const notes = el('input', { type: 'checkbox', id: 'notes', onchange: (event) => document.body.classList.toggle('notes', event.target.checked) });
    return el('div', { class: 'options' }, el('span', {}, el('label', { for: 'window' }, 'Running mean '), window),
      el('label', {}, notes, ' explain each figure'));
  }

  /** Accuracy over the updates, and by denoising steps and by k where the run measured them. */
  learning(section) {
    const grid = el('div', { class: 'grid' });
    const layers = [];
    const rows = this.data.runs.map((run, r) => this.accuracyRow(run, r, layers));
    if (layers.length) {
      const marks = this.data.runs.flatMap((run, r) => this.marks(run, r, () => true));
      this.add(grid, { title: 'accuracy', unit: `%${this.outcomeName()}`, note: 'training: of the sampled rollouts; held out and validation: by the ' +
        'evaluation sampler, with 95 % intervals', rows, wide: true }, layers, { zero: true, height: 232, marks, domain: [0, this.last] });
    }
    this.otherValidation(grid);
    this.byCount(grid, 'accuracy by denoising steps', '%', (row) => row.accuracy);
    this.byCount(grid, 'pass@k', '%', (row) => row.pass_at_k ?? {});
    section.append(el('h3', {}, 'Learning'), grid);
  }

  outcomeName() {
    const names = new Set(this.data.runs.map((run) => run.outcome).filter(Boolean));
    return names.size === 1 ? `, ${[...names][0]}` : '';
  }

  accuracyRow(run, r, layers) {
    const color = (single) => (this.many ? r : single);
    const cells = [];
    const outcome = run.curves.values.outcome;
    if (outcome) {
      const y = outcome.map((value) => hundredfold(value));
      layers.push({ kind: 'line', color: color(7), x: run.curves.x, y, label: this.many ? '' : 'training' });
      cells.push({ label: 'training', color: color(7), read: (at) => percent(valueAt(run.curves.x, outcome, at)) });
    }
    for (const [split, label, single] of [['eval', 'held out', 0], ['validation', 'validation', 2]]) {
      const rows = run.evaluations.filter((row) => row.split === split && row.accuracy[run.main_steps] && (!row.reward || row.reward === run.outcome));
      if (!rows.length) continue;
      const at = rows.map((row) => row.accuracy[run.main_steps]);
      const hollow = split === 'validation';
      layers.push({ kind: 'points', color: color(single), x: rows.map((row) => row.update), y: at.map((cell) => hundredfold(cell.value)),
        low: at.map((cell) => hundredfold(cell.low)), high: at.map((cell) => hundredfold(cell.high)), hollow, dash: hollow, shift: hollow ? 5 : 0,
        label: this.many ? (hollow ? '' : letter(r)) : label });
      cells.push({ label, color: color(single), read: (update) => {
        const known = rows.filter((row) => update === null || row.update <= update);
        return known.length ? interval(known.at(-1).accuracy[run.main_steps]) : '–';
      } });
    }
    return cells;
  }

  /** Validation by a reward that is not the outcome: a figure of its own, in that reward's unit. */
  otherValidation(grid) {
    const chosen = (run) => run.evaluations.filter((row) => row.reward && row.reward !== run.outcome && row.accuracy[run.main_steps]);
    for (const name of new Set(this.data.runs.flatMap((run) => chosen(run).map((row) => row.reward)))) {
      const layers = [];
      const rows = this.data.runs.map((run, r) => {
        const found = chosen(run).filter((row) => row.reward === name);
        if (!found.length) return [];
        const xs = found.map((row) => row.update);
        const at = found.map((row) => row.accuracy[run.main_steps]);
        const ys = at.map((cell) => cell.value);
        layers.push({ kind: 'points', color: r, x: xs, y: ys, low: at.map((cell) => cell.low ?? null), high: at.map((cell) => cell.high ?? null), hollow: true,
          dash: true, label: this.many ? letter(r) : '' });
        return [{ label: '', color: r, read: (update) => number(ys[xs.findLastIndex((x) => update === null || x <= update)]) }];
      });
      this.add(grid, { title: `validation: ${name}`, note: 'by which the best checkpoint is chosen', rows }, layers, { zero: true, height: 232, domain: [0, this.last] });
    }
  }

  /** A figure over step counts or k: before dashed and hollow, after solid. */
  byCount(grid, title, unit, pick) {
    const names = new Set();
    const found = [];
    this.data.runs.forEach((run, r) => {
      const rows = run.evaluations.filter((row) => row.split === 'eval');
      const first = rows.find((row) => row.when === 'start');
      const last = rows.findLast((row) => row.when === 'end');
      for (const [row, label, hollow] of [[first, 'before', true], [last, 'after', false]]) {
        if (!row || Object.keys(pick(row)).length < 2) continue;
        Object.keys(pick(row)).forEach((name) => names.add(Number(name)));
        found.push({ cells: pick(row), r, label, hollow });
      }
    });
    if (!found.length) return;
    const ordered = [...names].sort((a, b) => a - b);
    const layers = found.map(({ cells, r, label, hollow }) => {
      const at = ordered.map((name) => cells[name] ?? { value: null, low: null, high: null });
      return { kind: 'points', color: this.many ? r : hollow ? 7 : 0, x: ordered.map((_, i) => i), y: at.map((cell) => hundredfold(cell.value)),
        low: at.map((cell) => hundredfold(cell.low)), high: at.map((cell) => hundredfold(cell.high)), hollow, dash: hollow,
        label: this.many ? (hollow ? '' : letter(r)) : label };
    });
    const note = this.many ? 'dashed: before RL; solid: after' : 'the same prompts';
    this.add(grid, { title, unit, note, rows: [] }, layers, { zero: true, height: 232, domain: [-0.25, ordered.length - 0.75], ordinal: ordered.map(String), own: true });
  }

  panels(section) {
    const sections = new Map();
    for (const panel of this.data.panels) {
      if (!sections.has(panel.section)) sections.set(panel.section, []);
      sections.get(panel.section).push(panel);
    }
    for (const [name, panels] of sections) {
      const grid = el('div', { class: 'grid' });
      const folded = el('div', { class: 'grid' });
      const flat = panels.filter((panel) => this.isFlat(panel));
      for (const panel of panels) this.panel(flat.includes(panel) ? folded : grid, panel);
      if (!grid.children.length && !folded.children.length) continue;
      const axis = panels[0].source === 'warm_start' ? el('span', { class: 'soft' }, ' · over the steps of the warm start') : null;
      section.append(el('h3', {}, name, axis));
      if (grid.children.length) section.append(grid);
      if (folded.children.length) section.append(this.fold(flat, folded));
    }
  }

  /** The figures of a section in which nothing moves, one line that opens; the line says what they show. */
  fold(panels, grid) {
    const said = panels.map((panel) => {
      const values = new Set(this.lists(panel).map((list) => list.find(isNumber)));
      return values.size === 1 ? `${panel.title} ${number([...values][0])}` : panel.title;
    });
    return el('details', { class: 'flat' }, el('summary', { class: 'soft small' }, `Without variation: ${said.join(', ')}`), grid);
  }

  lists(panel) {
    const tables = this.data.runs.map((run) => (panel.source === 'warm_start' ? run.warm_start : run.curves));
    return tables.flatMap((table) => panel.keys.map((key) => table.values[key])).filter(Boolean);
  }

  /** Whether every curve of a panel has one value at all its updates, of which there are several, and no alarm points at it. */
  isFlat(panel) {
    const lists = this.lists(panel).map((list) => list.filter(isNumber));
    const alarmed = this.data.runs.some((run) => run.alarms.some((alarm) => alarm.metrics.some((metric) => panel.keys.includes(metric))));
    return !alarmed && lists.length > 0 && lists.every((list) => list.length > 1 && list.every((value) => value === list[0]));
  }

  panel(grid, panel) {
    if (panel.kind === 'stack') {
      this.data.runs.forEach((run, r) => this.stack(grid, panel, run, r));
      return;
    }
    const warm = panel.source === 'warm_start';
    const layers = [];
    const rows = this.data.runs.map((run, r) => {
      const table = warm ? run.warm_start : run.curves;
      const lists = panel.keys.map((key) => table.values[key]);
      if (panel.kind === 'band' && lists.every(Boolean)) {
        layers.push({ kind: 'band', color: r, x: table.x, low: lists[0], high: lists[2] });
      }
      return panel.keys.flatMap((key, k) => {
        const list = lists[k];
        if (!list) return [];
        const middle = panel.kind !== 'band' || k === 1;
        const several = panel.kind !== 'band' && panel.labels.length > 1;
        const name = this.many && (k === 0 || panel.kind === 'band') ? letter(r) : '';
        const inside = !this.many && several ? panel.labels[k] : '';
        if (middle) layers.push({ kind: 'line', color: r, x: table.x, y: list, dash: several && k > 0, label: name, inside });
        return [{ label: panel.labels[k] ?? '', color: r, read: (at) => number(valueAt(table.x, list, at)) }];
      });
    });
    if (!layers.length) return;
    const plain = panel.kind === 'spikes';
    for (const layer of layers) layer.plain = plain;
    const marks = warm ? [] : this.data.runs.flatMap((run, r) => this.marks(run, r, (alarm) => alarm.metrics.some((metric) => panel.keys.includes(metric))));
    const longest = Math.max(1, ...this.data.runs.flatMap((run) => run.warm_start.x));
    this.add(grid, { ...panel, rows }, layers, { zero: panel.zero, log: panel.log, marks, domain: [0, warm ? longest : this.last], own: warm });
  }

  stack(grid, panel, run, r) {
    const kept = panel.keys.map((_, k) => k).filter((k) => run.curves.values[panel.keys[k]]);
    if (!kept.length) return;
    const ys = kept.map((k) => run.curves.values[panel.keys[k]]);
    const rows = [kept.map((k, i) => ({ label: panel.labels[k], color: k, read: (at) => number(valueAt(run.curves.x, ys[i], at)) }))];
    const title = this.many ? `${panel.title}, ${letter(r)}` : panel.title;
    this.add(grid, { ...panel, title, rows, plainRows: true }, [{ kind: 'stack', color: 0, colors: kept, x: run.curves.x, ys }],
      { zero: true, domain: [0, this.last], height: 132 });
  }

  marks(run, r, wanted) {
    return run.alarms.filter(wanted).flatMap((alarm) =>
      alarm.updates.map((update) => ({ x: update, stop: alarm.level === 'stop', color: this.many ? r : null, text: `${alarm.monitor}, update ${update}: ${alarm.message}` })));
  }

  /** Put a figure on the page. info: title, unit, note, rows of readings per run; options: as Figure's; own: not read at the shared update. */
  add(grid, info, layers, options) {
    const figure = new Figure(layers, { right: this.many ? 16 : 6, ...options, label: `${info.title}${info.unit ? `, ${info.unit}` : ''}` });
    const values = el('span', { class: 'values' });
    const caption = el('figcaption', {},
      el('span', {}, el('span', { class: 'name' }, info.title), info.unit ? el('span', { class: 'unit' }, ` ${info.unit}`) : null), values,
      info.note ? el('span', { class: 'note' }, info.note) : null);
    const node = el('figure', { class: info.wide ? 'panel wide' : 'panel' }, caption, figure.node);
    const entry = { figure, values, info, node, own: Boolean(options.own) };
    this.entries.push(entry);
    grid.append(node);
    const update = (event) => Math.round(clamp(figure.invert(((event.clientX - node.getBoundingClientRect().left) / node.clientWidth) * figure.width), ...options.domain));
    if (options.ordinal) return;
    figure.node.addEventListener('pointermove', (event) => (entry.own ? this.readOwn(entry, update(event)) : this.read(update(event))));
    figure.node.addEventListener('pointerleave', () => (entry.own ? this.readOwn(entry, null) : this.read(this.pinned)));
    figure.node.addEventListener('click', (event) => (entry.own ? null : this.pin(update(event))));
  }

  draw() {
    for (const entry of this.entries) {
      const width = Math.round(entry.node.clientWidth);
      if (width > 0) entry.figure.draw(width, entry.figure.options.ordinal ? 1 : this.window);
    }
    this.read(this.pinned);
    for (const entry of this.entries) if (entry.own) this.readOwn(entry, null);
  }

  setWindow(width) {
    this.window = width;
    this.draw();
  }

  pin(update) {
    this.pinned = update;
    this.slider.value = String(update);
    this.read(update);
  }

  read(update) {
    const last = update === this.last;
    this.output.textContent = last && this.many ? 'each last update' : `update ${update}`;
    for (const entry of this.entries) {
      if (entry.own) continue;
      this.write(entry, last ? null : update);
      entry.figure.mark(last ? null : update);
    }
  }

  readOwn(entry, at) {
    this.write(entry, at);
    entry.figure.mark(at);
  }

  write(entry, at) {
    const lettered = this.many && !entry.info.plainRows;
    const labels = [...new Set(entry.info.rows.flatMap((cells) => cells.map((cell) => cell.label)))];
    const rows = entry.info.rows.map((cells, r) => ({ cells, r })).filter(({ cells }) => cells.length);
    const abreast = lettered && labels.length === 1 && rows.length > 3 ? 4 : 1; // many runs, short readings: four to a line
    entry.values.style.gridTemplateColumns = `repeat(${abreast * (labels.length + (lettered ? 1 : 0))}, auto)`;
    const read = (cell) => (cell ? el('span', { class: lettered ? '' : `k${cell.color}` }, cell.label ? `${cell.label} ` : '', cell.read(at)) : el('span'));
    entry.values.replaceChildren(...rows.flatMap(({ cells, r }) => [
      ...(lettered ? [el('span', { class: `letter k${r}` }, letter(r))] : []), ...labels.map((label) => read(cells.find((cell) => cell.label === label)))]));
  }
}

const hundredfold = (value) => (isNumber(value) ? 100 * value : null);

/** The value of a curve at an update, or its last; none where the run has not come so far. */
function valueAt(xs, ys, at) {
  if (at === null) return ys.findLast(isNumber) ?? null;
  if (!xs.length || at > xs.at(-1) + Math.max(1, xs.length > 1 ? xs[1] - xs[0] : 1)) return null;
  return ys[nearest(xs, at)];
}
