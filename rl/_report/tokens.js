// How single tokens look: readable stand-ins for what has no glyph, colour scales, and the words of the read-out.

const ENDS = /^<[|｜/]?(endoftext|eos|eot|eot_id|im_end|s|pad|end▁of▁sentence)[|｜]?>$/i;
const UNSEEN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** What a cell shows: an end of text as ∎, a line break as ↵, an empty token as ∅, controls by their code point. */
function shownText(text) {
  if (text === '') return '∅';
  if (ENDS.test(text)) return '∎';
  return text.replaceAll('\n', '↵').replaceAll('\t', '⇥').replace(UNSEEN, (char) => `⟨${char.codePointAt(0).toString(16)}⟩`);
}

/** Columns a text takes in a fixed-width font. */
function columns(text) {
  let count = 0;
  for (const char of text) count += char.codePointAt(0) >= 0x1100 && char.codePointAt(0) !== 0x220e ? 2 : 1;
  return Math.max(1, count);
}

// Ramps from low to high; for steps and confidence one direction, for advantage and ratio blue above and orange below a pale middle.
const RAMPS = {
  light: {
    step: ['#fbf7c5', '#b9e0b8', '#62bcc0', '#2c87b8', '#274f93'],
    doubt: ['#ffffff', '#fde3c3', '#fbb877', '#e8772f', '#a63a06'],
    sides: ['#b3480a', '#f0a35e', '#f4f3ef', '#86b5dd', '#1f5fa8'],
  },
  dark: {
    step: ['#27324a', '#2b5c80', '#2f8f9c', '#70c39a', '#e2ee9c'],
    doubt: ['#1d2024', '#4a3320', '#85501f', '#c87224', '#ffb45e'],
    sides: ['#f29a4b', '#8f5524', '#2c3036', '#2f5f93', '#6db3f7'],
  },
};

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

function rampColor(stops, share) {
  const at = clamp(share, 0, 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2);
  const [from, to] = [rgb(stops[i]), rgb(stops[i + 1])];
  return from.map((value, c) => Math.round(value + (to[c] - value) * (at - i)));
}

/** Black or white, whichever reads better on a colour: at least 4.5:1. */
function inkOn(color) {
  const [r, g, b] = color.map((value) => (value <= 10 ? value / 3295 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? '#000000' : '#ffffff';
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
}

const pickValue = (list, i, scale) => {
  const value = Array.isArray(list) ? list[i] : list;
  return isNumber(value) ? value / scale : null;
};

/** One rollout as the viewer reads it: values per position, null where there is none. */
class Rollout {
  constructor(raw, data) {
    this.raw = raw;
    this.count = raw.tokens.length;
    this.reveal = raw.reveal;
    this.hints = new Set(raw.hint);
    this.texts = raw.tokens.map((index) => data.tokens[index][1]);
    this.ids = raw.tokens.map((index) => data.tokens[index][0]);
    this.prompt = raw.prompt === undefined ? null : data.texts[raw.prompt];
    this.last = 1 + Math.max(-1, ...this.reveal.filter((step) => step < raw.steps));
    this.uncounted = new Set((raw.uncounted ?? []).flatMap(([from, to]) => Array.from({ length: to - from }, (_, i) => from + i)));
  }

  drawn(i) {
    return this.reveal[i] >= 0 && this.reveal[i] < this.raw.steps;
  }

  /** Revealed in the state after `step` steps. */
  isOpen(i, step) {
    return this.hints.has(i) || (this.reveal[i] < step && this.reveal[i] < this.raw.steps);
  }

  value(name, i) {
    if (!this.drawn(i)) return null;
    if (name === 'step') return this.reveal[i];
    if (name === 'confidence') {
      const logprob = pickValue(this.raw.logprob, i, 100);
      return logprob === null ? null : Math.exp(logprob);
    }
    if (name === 'entropy') return pickValue(this.raw.entropy, i, 100);
    return pickValue(name === 'advantage' ? this.raw.token_advantage : this.raw.ratio, i, 1000);
  }

  has(name) {
    return this.reveal.some((_, i) => this.value(name, i) !== null);
  }

  /** Largest distance from the neutral value: advantage from 0, ratio from 1 by its logarithm. */
  reach(name) {
    const distance = (value) => Math.abs(name === 'ratio' ? Math.log(Math.max(value, 1e-6)) : value);
    return this.reveal.reduce((most, _, i) => (this.value(name, i) === null ? most : Math.max(most, distance(this.value(name, i)))), 0);
  }

  describe(i) {
    const words = [`position ${i}`, JSON.stringify(this.texts[i]), `id ${this.ids[i]}`];
    if (this.hints.has(i)) words.push('a hint, given');
    else if (!this.drawn(i)) words.push('never revealed');
    else words.push(`revealed in step ${this.reveal[i] + 1} of ${this.raw.steps}`);
    const say = (name, label, unit = '') => {
      const value = this.value(name, i);
      if (value !== null) words.push(`${label} ${number(value)}${unit}`);
    };
    say('confidence', 'probability');
    say('entropy', 'entropy', ' nats');
    say('advantage', 'advantage');
    say('ratio', 'ratio');
    if (this.uncounted.has(i)) words.push('not counted in the loss');
    return words;
  }
}

/** The colour of a value on the scale of its kind. reach: of advantage and ratio. */
function valueColor(name, value, rollout, reach) {
  const ramps = isDark() ? RAMPS.dark : RAMPS.light;
  if (name === 'step') return rampColor(ramps.step, rollout.last > 1 ? value / (rollout.last - 1) : 0);
  if (name === 'confidence') return rampColor(ramps.doubt, 1 - value);
  const distance = name === 'ratio' ? Math.log(Math.max(value, 1e-6)) : value;
  return rampColor(ramps.sides, 0.5 + distance / (2 * reach));
}

/** Ends and gradient of the legend of a kind of colouring. */
function scaleOf(name, rollout, reach) {
  const ramps = isDark() ? RAMPS.dark : RAMPS.light;
  if (name === 'step') return { low: 'step 1', high: `step ${rollout.last}`, stops: ramps.step };
  if (name === 'confidence') return { low: 'probability 1', high: '0', stops: ramps.doubt };
  if (name === 'ratio') return { low: `ratio ${number(Math.exp(-reach))}`, high: number(Math.exp(reach)), stops: ramps.sides };
  return { low: `advantage ${number(-reach)}`, high: `+${number(reach)}`, stops: ramps.sides };
}
