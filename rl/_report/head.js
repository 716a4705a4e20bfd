// The head of the page: what was run, what came out, what went wrong; and the recipe at its end.

function mountSummary(data, section) {
  const { runs } = data;
  const one = runs.length === 1;
  section.append(el('h1', { id: 'title' }, one ? runs[0].name : `${runs.length} runs compared`));
  if (one) section.append(el('p', { class: 'soft full' }, `${progress(runs[0])} · ${runs[0].folder}`));
  section.append(one ? figures(runs[0]) : comparison(runs));
  if (!one) section.append(differences(data));
  section.append(factsTable(runs));
  for (const run of runs) {
    if (!run.notes.length) continue;
    section.append(el('p', { class: 'soft small' }, one ? '' : `${run.name}: `, `${run.notes.join('. ')}.`));
  }
}

function progress(run) {
  const count = run.planned ? `${run.updates} of ${run.planned} updates` : `${run.updates} updates`;
  const state = run.finished ? 'finished' : 'not finished';
  return [state, count, run.seconds ? `${run.seconds} of work` : null, run.written ? `last written ${run.written}` : null].filter(Boolean).join(' · ');
}

/** First and last accuracy of the evaluation split at the main step count. */
function ends(run) {
  const rows = run.evaluations.filter((row) => row.split === 'eval' && row.accuracy[run.main_steps]);
  const start = rows.find((row) => row.when === 'start') ?? null;
  const last = rows.length ? rows.at(-1) : null;
  return { before: start && start.accuracy[run.main_steps], after: last && last !== start ? last.accuracy[run.main_steps] : null, last };
}

function figures(run) {
  const { before, after, last } = ends(run);
  const found = [];
  const add = (label, value, range) => found.push(el('div', {},
    el('div', { class: 'soft small' }, label), el('div', { class: 'value' }, value), el('div', { class: 'range' }, range)));
  const range = (cell) => (isNumber(cell.low) ? `[${percent(cell.low)}, ${percent(cell.high)}]` : '') + (cell.n ? `  ${cell.n} prompts` : '');
  if (before) add('held-out accuracy before RL, %', percent(before.value), range(before));
  if (after) add(last.when === 'end' ? 'after RL, %' : `at update ${last.update}, %`, percent(after.value), range(after));
  if (run.gain && isNumber(run.gain.value)) {
    const sign = run.gain.value > 0 ? '+' : '';
    add('gain, points (paired)', `${sign}${percent(run.gain.value)}`.replace('-', '−'), `[${percent(run.gain.low)}, ${percent(run.gain.high)}]`.replaceAll('-', '−'));
  }
  const outcome = (run.curves.values.outcome ?? []).filter(isNumber);
  if (outcome.length) {
    const tail = outcome.slice(-Math.max(1, Math.round(outcome.length / 10)));
    add('training accuracy, last tenth, %', percent(tail.reduce((sum, value) => sum + value, 0) / tail.length), `first update ${percent(outcome[0])}`);
  }
  return el('div', { class: 'figures' }, ...found);
}

function comparison(runs) {
  const cells = runs.map(ends);
  const all = [...cells.flatMap((one) => [one.before, one.after]), ...runs.map(() => null)].filter(Boolean);
  const low = Math.min(...all.map((cell) => cell.low ?? cell.value));
  const high = Math.max(...all.map((cell) => cell.high ?? cell.value));
  const measured = all.length > 0;
  const head = ['', 'run', 'state', measured ? 'held-out accuracy before, %' : null, measured ? 'after, %' : null, 'gain, points', measured ? `○ before ● after, ${percent(low)} to ${percent(high)}` : null, 'time'];
  const rows = runs.map((run, r) => el('tr', {},
    el('td', { class: `letter k${r}` }, letter(r)),
    el('td', {}, run.name, el('div', { class: 'of' }, run.folder)),
    el('td', {}, run.finished ? 'finished' : 'not finished', el('div', { class: 'of' }, `${run.updates}${run.planned ? ` of ${run.planned}` : ''} updates`)),
    measured ? el('td', { class: 'number' }, interval(cells[r].before)) : null,
    measured ? el('td', { class: 'number' }, interval(cells[r].after), cells[r].after && cells[r].last.when !== 'end' ? el('div', { class: 'of' }, `at update ${cells[r].last.update}`) : null) : null,
    el('td', { class: 'number' }, run.gain ? interval(run.gain, true) : '–'),
    measured ? el('td', {}, dots(cells[r], r, low, high)) : null,
    el('td', { class: 'number' }, run.seconds ?? '–')));
  return el('div', { class: 'scroll' }, el('table', {}, el('thead', {}, el('tr', {}, ...head.filter((text) => text !== null).map((text) => el('th', { scope: 'col' }, text)))), el('tbody', {}, ...rows)));
}

/** Before (hollow) and after (solid) with their intervals on one scale for all runs. */
function dots({ before, after }, r, low, high) {
  const x = (value) => 6 + (148 * (value - low)) / Math.max(high - low, 1e-9);
  const marks = [[before, 9, true], [after, 19, false]].filter(([cell]) => cell).flatMap(([cell, y, hollow]) => [
    isNumber(cell.low) ? svg('line', { class: `whisker s${r}`, x1: x(cell.low), x2: x(cell.high), y1: y, y2: y }) : null,
    svg('circle', { class: hollow ? `hollow s${r}` : `f${r}`, cx: x(cell.value), cy: y, r: 3.5 }),
  ]);
  return svg('svg', { width: 160, height: 28, role: 'img', 'aria-label': `before ${before ? interval(before) : 'unknown'}, after ${after ? interval(after) : 'unknown'} percent` }, ...marks);
}

function differences(data) {
  if (!data.differences.length) return el('p', {}, 'The recipes are the same.');
  return el('div', {}, el('h3', {}, 'What differs between the recipes'), runTable(data.runs, data.differences, 'key'));
}

function runTable(runs, rows, first) {
  return el('div', { class: 'scroll' }, el('table', {},
    el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, first), ...runs.map((run, r) => el('th', { scope: 'col' }, el('span', { class: `letter k${r}` }, letter(r)), ` ${run.name}`)))),
    el('tbody', {}, ...rows.map(([key, values]) => el('tr', {}, el('th', { scope: 'row' }, key), ...values.map((value) => el('td', {}, value)))))));
}

function factsTable(runs) {
  const labels = [...new Set(runs.flatMap((run) => run.facts.map(([label]) => label)))];
  if (runs.length === 1) {
    return el('dl', { class: 'facts' }, ...runs[0].facts.map(([label, text]) => {
      const differs = label === 'Evaluation sampler' && runs[0].samplers.length;
      return el('div', {}, el('dt', {}, label), el('dd', { class: differs ? 'differs' : '' }, text));
    }));
  }
  const rows = labels.map((label) => [label, runs.map((run) => (run.facts.find(([name]) => name === label) ?? ['', '–'])[1])]);
  return el('details', {}, el('summary', {}, 'What was run'), runTable(runs, rows, ''));
}

function mountHealth(data, section, readAt) {
  const found = data.runs.flatMap((run, r) => run.alarms.map((alarm) => ({ ...alarm, run, r })));
  if (!found.length) return;
  section.hidden = false;
  section.append(el('h2', { id: 'health-title' }, 'Health alarms'));
  section.append(el('ul', { class: 'alarms' }, ...found.map((alarm) => {
    const first = alarm.updates[0];
    const last = alarm.updates.at(-1);
    const when = first === last ? `update ${first}` : `updates ${first} to ${last}, ${alarm.count} times`;
    return el('li', { class: alarm.level === 'stop' ? 'stop' : '' },
      data.runs.length > 1 ? el('span', { class: `letter k${alarm.r}` }, `${letter(alarm.r)} `) : null,
      el('span', { class: 'level' }, alarm.level === 'stop' ? 'stopped the run' : 'warning'), ` · ${alarm.monitor} · `,
      el('button', { type: 'button', onclick: () => readAt(first) }, when), el('div', {}, sentence(alarm.message)),
      alarm.remedy ? el('div', { class: 'soft' }, `What to do: ${sentence(alarm.remedy, false)}`) : null);
  })));
}

function sentence(text, capital = true) {
  const begun = capital ? text.charAt(0).toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}

function mountRecipe(data, section) {
  section.append(el('h2', { id: 'recipe-title' }, data.runs.length > 1 ? 'Recipes' : 'Recipe'));
  data.runs.forEach((run) => {
    section.append(el('details', {}, el('summary', {}, `The resolved recipe of ${run.name}`), el('pre', { tabindex: 0 }, run.recipe || 'There is no recipe.yaml.')));
  });
}
