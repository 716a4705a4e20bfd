// Puts the page together.

(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const section = (id) => document.getElementById(id);
  document.body.classList.toggle('many', data.runs.length > 1);
  const viewer = new Viewer(data);
  const curves = new Curves(data, (update) => viewer.showUpdate(update));
  mountSummary(data, section('summary'));
  mountHealth(data, section('health'), (update) => {
    curves.pin(update);
    section('curves').scrollIntoView();
  });
  curves.mount(section('curves'));
  viewer.mount(section('rollouts'));
  mountRecipe(data, section('recipe'));

  const nav = document.querySelector('nav');
  for (const [id, text] of [['summary', 'Summary'], ['health', 'Health'], ['curves', 'Curves'], ['rollouts', 'Rollouts'], ['recipe', 'Recipe']]) {
    if (!section(id).hidden) nav.append(el('a', { href: `#${id}` }, text));
  }
  document.querySelector('footer').append('Written by unmask. This file is complete in itself: it loads nothing and sends nothing.');

  const themes = ['system', 'light', 'dark'];
  const button = section('theme');
  button.addEventListener('click', () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? 'system') + 1) % themes.length];
    if (next === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = next;
    button.lastElementChild.textContent = ` ${next}`;
    button.setAttribute('aria-label', `Colour theme: ${next === 'system' ? 'as the system' : next}`);
    viewer.recolor();
  });
})();
