// One small figure: lines with a running mean, bands, points with whiskers, stacked areas; on a linear or logarithmic axis.
// A figure is given layers and draws them at the width it finds. Colours are classes, so a theme redraws nothing.

const TOP = 6;
const BOTTOM = 18;
const LEFT = 42;

function niceTicks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) ticks.push(10 ** power);
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  if (inside.length > 4) return inside.filter((_, i) => i % Math.ceil(inside.length / 4) === 0);
  if (inside.length > 1) return inside;
  return ticks.flatMap((tick) => [tick, 2 * tick, 5 * tick]).filter((tick) => tick >= low && tick <= high);
}

/** Running mean over `width` values around each; gaps stay gaps. pick: another way to put the window together. */
function running(values, width, pick = null) {
  if (width <= 1) return values;
  const half = Math.floor(width / 2);
  return values.map((value, i) => {
    if (value === null) return null;
    const window = values.slice(Math.max(0, i - half), i + half + 1).filter(isNumber);
    return pick ? pick(...window) : window.reduce((sum, one) => sum + one, 0) / window.length;
  });
}

function path(xs, ys, x, y) {
  let text = '';
  let pen = false;
  ys.forEach((value, i) => {
    if (!isNumber(value)) {
      pen = false;
      return;
    }
    text += `${pen ? 'L' : 'M'}${x(xs[i]).toFixed(1)} ${y(value).toFixed(1)}`;
    if (!pen && !isNumber(ys[i + 1])) text += 'h.1';
    pen = true;
  });
  return text;
}

function areaPath(xs, low, high, x, y) {
  const kept = xs.map((_, i) => i).filter((i) => isNumber(low[i]) && isNumber(high[i]));
  if (!kept.length) return '';
  const point = (values) => (i) => `${x(xs[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
  return `M${kept.map(point(high)).join('L')}L${kept.reverse().map(point(low)).join('L')}Z`;
}

class Figure {
  // layers: {kind: line|band|points|stack, color, x, y, low, high, ys, label, inside, dash, hollow, shift, plain}
  // label stands at the end of a line, `inside` above it; shift moves points sideways, in pixels; plain: no running mean.
  // options: {zero, log, height, right, marks: [{x, stop, text, color}], domain: [low, high], ordinal: [names], label}
  constructor(layers, options) {
    this.layers = layers;
    this.options = { height: 112, marks: [], ...options };
    this.node = svg('svg', { role: 'img', 'aria-label': options.label, height: this.options.height });
    this.width = 1;
    this.window = 1;
  }

  values() {
    const found = [];
    for (const layer of this.smooth) {
      const lists = layer.kind === 'stack' ? [layer.tops.at(-1)] : [layer.y, layer.low, layer.high, layer.shown];
      for (const list of lists) if (list) for (const value of list) if (isNumber(value)) found.push(value);
    }
    return found;
  }

  /** Layers with what is drawn: `shown` for lines, running extremes for bands, cumulative tops for stacks. */
  prepare() {
    this.smooth = this.layers.map((layer) => {
      if (layer.kind === 'line') return { ...layer, shown: layer.plain ? layer.y : running(layer.y, this.window) };
      if (layer.kind === 'band') {
        return { ...layer, low: running(layer.low, this.window, Math.min), high: running(layer.high, this.window, Math.max) };
      }
      if (layer.kind !== 'stack') return layer;
      const parts = layer.ys.map((list) => running(list.map((value) => value ?? 0), this.window));
      const tops = parts.map((_, k) => layer.x.map((__, i) => parts.slice(0, k + 1).reduce((sum, part) => sum + part[i], 0)));
      return { ...layer, tops };
    });
  }

  range() {
    const values = this.values();
    let low = Math.min(...values);
    let high = Math.max(...values);
    const positive = values.filter((value) => value > 0);
    const smallest = Math.min(...positive);
    const spread = high / Math.max(smallest, high * 1e-6);
    const wide = this.options.log === 'always' ? spread > 1.5 : this.options.log && spread > 25;
    this.log = Boolean(wide) && positive.length > values.length * 0.9;
    if (this.log) return [Math.max(smallest, high * 1e-6) * 0.9, high * 1.1];
    if (this.options.zero) low = Math.min(0, low);
    if (high === low) {
      const room = Math.abs(high) * 0.1 || 1;
      return this.options.zero && low === 0 ? [0, room] : [low - room, high + room];
    }
    const room = (high - low) * 0.05;
    return [this.options.zero && low === 0 ? 0 : low - room, high + room];
  }

  draw(width, window) {
    this.width = width;
    this.window = window;
    this.prepare();
    const { height, domain, ordinal } = this.options;
    const labels = this.layers.map((layer) => layer.label ?? '');
    const right = Math.max(this.options.right, ...labels.map((text) => (text ? 8 + text.length * 6.4 : 0)));
    const [low, high] = this.range();
    const span = Math.max(domain[1] - domain[0], 1e-9);
    this.x = (value) => LEFT + ((value - domain[0]) / span) * (width - LEFT - right);
    this.invert = (pixel) => domain[0] + ((pixel - LEFT) / (width - LEFT - right)) * span;
    const scale = this.log ? Math.log : (value) => value;
    const from = scale(low);
    const to = scale(high);
    this.y = (value) => height - BOTTOM - ((scale(this.log ? Math.max(value, low) : value) - from) / (to - from)) * (height - TOP - BOTTOM);
    this.node.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.node.replaceChildren(...this.axes(low, high, width - right, ordinal), ...this.smooth.flatMap((layer) => this.shape(layer)));
    this.node.append(...this.alarmMarks(), ...this.directLabels(width - right));
    this.hair = svg('g', { class: 'reading', 'aria-hidden': 'true' });
    this.node.append(this.hair);
  }

  axes(low, high, end, ordinal) {
    const { height, domain } = this.options;
    const base = height - BOTTOM;
    const found = [];
    const ticks = this.log ? logTicks(low, high) : niceTicks(low, high, height > 160 ? 5 : 3);
    for (const tick of ticks) {
      const y = this.y(tick);
      found.push(svg('line', { class: 'rule', x1: LEFT, x2: end, y1: y, y2: y }));
      found.push(svg('text', { x: LEFT - 6, y: y + 3.5, 'text-anchor': 'end' }, number(tick)));
    }
    found.push(svg('line', { class: 'axis', x1: LEFT, x2: end, y1: base, y2: base }));
    const across = ordinal ? ordinal.map((_, i) => i) : niceTicks(domain[0], domain[1], end > 420 ? 8 : 4);
    for (const tick of across) {
      const text = ordinal ? ordinal[tick] : number(tick);
      const anchor = this.x(tick) + text.length * 3.5 > this.width ? 'end' : 'middle';
      found.push(svg('line', { class: 'axis', x1: this.x(tick), x2: this.x(tick), y1: base, y2: base + 3 }));
      found.push(svg('text', { x: this.x(tick), y: height - 4, 'text-anchor': anchor }, text));
    }
    return found;
  }

  shape(layer) {
    const { x, y } = this;
    const stroke = `s${layer.color}`;
    if (layer.kind === 'band') return [svg('path', { class: `area f${layer.color}`, d: areaPath(layer.x, layer.low, layer.high, x, y) })];
    if (layer.kind === 'stack') {
      return layer.tops.map((top, k) => {
        const under = k ? layer.tops[k - 1] : top.map(() => 0);
        return svg('path', { class: `stack f${layer.colors[k]}`, d: areaPath(layer.x, under, top, x, y) });
      });
    }
    if (layer.kind === 'line') {
      const dash = layer.dash ? ' dash' : '';
      const mean = svg('path', { class: `mean ${stroke}${dash}`, d: path(layer.x, layer.shown, x, y) });
      if (this.window <= 1 || layer.dash || layer.plain) return [mean];
      return [svg('path', { class: `raw ${stroke}`, d: path(layer.x, layer.y, x, y) }), mean];
    }
    const found = [svg('path', { class: `mean ${stroke}${layer.dash ? ' dash' : ''}`, d: path(layer.x, layer.y, x, y), opacity: 0.55 })];
    layer.y.forEach((value, i) => {
      if (!isNumber(value)) return;
      const at = x(layer.x[i]) + (layer.shift ?? 0);
      if (isNumber(layer.low[i])) {
        found.push(svg('line', { class: `whisker ${stroke}`, x1: at, x2: at, y1: y(layer.low[i]), y2: y(layer.high[i]) }));
      }
      found.push(svg('circle', { class: layer.hollow ? `hollow ${stroke}` : `f${layer.color}`, cx: at, cy: y(value), r: 3 }));
    });
    return found;
  }

  alarmMarks() {
    const base = this.options.height - BOTTOM;
    return this.options.marks.flatMap((mark) => {
      const at = this.x(mark.x);
      const kind = `${mark.stop ? ' stop' : ''}${isNumber(mark.color) ? ` s${mark.color}` : ''}`;
      return [
        svg('line', { class: `marked${kind}`, x1: at, x2: at, y1: TOP, y2: base }),
        svg('path', { class: `mark${kind}`, d: `M${at} ${base - 8}l4.5 8h-9z` }, svg('title', {}, mark.text)),
      ];
    });
  }

  /** Names at the ends of the lines, pushed apart where they would overlap. */
  directLabels(end) {
    const found = [];
    for (const layer of this.smooth) {
      const list = layer.shown ?? layer.y;
      if (!layer.label || !list) continue;
      const last = list.findLastIndex(isNumber);
      if (last >= 0) found.push({ text: layer.label, x: this.x(layer.x[last]) + (layer.shift ?? 0) + 6, y: this.y(list[last]), color: layer.color });
    }
    found.sort((a, b) => a.y - b.y);
    found.forEach((one, i) => {
      for (const above of found.slice(0, i)) if (Math.abs(above.x - one.x) < 40) one.y = Math.max(one.y, above.y + 12);
    });
    const over = found.length ? found.at(-1).y - (this.options.height - BOTTOM) : 0;
    if (over > 0) for (const one of found) one.y -= over;
    return [...this.insideLabels(end), ...found.map((one) => svg('text', { class: `direct f${one.color}`, x: one.x, y: one.y + 4 }, one.text))];
  }

  /** Names above the last stretch of the lines that have one there, the lowest line first. */
  insideLabels(end) {
    const named = this.smooth.filter((layer) => layer.inside && layer.shown.some(isNumber)).map((layer) => {
      const tail = layer.shown.slice(-Math.ceil(layer.shown.length / 6)).filter(isNumber);
      return { layer, y: tail.length ? Math.min(...tail.map(this.y)) - 5 : this.y(layer.shown.find(isNumber)) };
    });
    named.sort((a, b) => b.y - a.y);
    named.forEach((one, i) => { if (i) one.y = Math.min(one.y, named[i - 1].y - 12); });
    return named.map(({ layer, y }) => svg('text', { class: `direct f${layer.color}`, x: end - 3, y: y < TOP + 6 ? y + 19 : y, 'text-anchor': 'end' }, layer.inside));
  }

  /** The hair line, and a dot on each curve there. */
  mark(at) {
    const { height } = this.options;
    this.hair.replaceChildren();
    if (at === null) return;
    const x = this.x(at);
    this.hair.append(svg('line', { class: 'hair', x1: x, x2: x, y1: TOP, y2: height - BOTTOM }));
    for (const layer of this.smooth) {
      const list = layer.kind === 'line' ? layer.shown : null;
      const i = list ? nearest(layer.x, at) : -1;
      if (list && isNumber(list[i])) this.hair.append(svg('circle', { class: `f${layer.color}`, cx: x, cy: this.y(list[i]), r: 2.6 }));
    }
  }
}

/** Index of the entry of an ascending list that is nearest to a value. */
function nearest(list, value) {
  let low = 0;
  let high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - list[low - 1] <= list[low] - value ? low - 1 : low;
}
