// Building the page. Text from the data goes in as text nodes and attributes, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes and children; texts become text nodes, null children are left out. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

/** A number as it is read: three digits, no needless zeros, exponents where they are shorter. */
function number(value) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2).replace(/\.?0+e/, 'e').replace('e+', 'e').replaceAll('-', '−');
  if (size >= 1000) return String(Math.round(value));
  const text = value.toPrecision(3);
  return (text.includes('.') ? text.replace(/\.?0+$/, '') : text).replace('-', '−');
}

const percent = (value) => (value === null || value === undefined ? '–' : (100 * value).toFixed(1));

/** `63.1 [59.1, 67.2]` of an interval of shares; without brackets where there is no interval. */
function interval(cell, sign = false) {
  if (!cell || cell.value === null || cell.value === undefined) return '–';
  const plus = sign && cell.value > 0 ? '+' : '';
  const range = cell.low === null || cell.low === undefined ? '' : ` [${percent(cell.low)}, ${percent(cell.high)}]`;
  return `${plus}${percent(cell.value)}${range}`.replaceAll('-', '−');
}

const letter = (index) => 'ABCDEFGH'[index];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const isNumber = (value) => typeof value === 'number';
