// Lists what the API sells, and says whether page and API are of one release, as they always are.
const money = new Intl.NumberFormat('en', { style: 'currency', currency: 'EUR' });
const list = document.querySelector('#products');

function card({ name, origin, colour, centsPerMetre }) {
  const item = document.createElement('li');
  const swatch = document.createElement('div');
  swatch.className = `swatch ${colour}`;
  const title = document.createElement('h2');
  title.textContent = name;
  const detail = document.createElement('p');
  detail.textContent = `${origin} · ${money.format(centsPerMetre / 100)} a metre`;
  item.append(swatch, title, detail);
  return item;
}

async function show() {
  const response = await fetch('/api/products');
  if (!response.ok) throw new Error(`the API answered ${response.status}`);
  const { release, site, products } = await response.json();
  list.replaceChildren(...products.map(card));
  const page = document.querySelector('meta[name=release]').content;
  document.querySelector('#api-release').textContent = release;
  document.querySelector('#site').textContent = site;
  document.querySelector('#verdict').textContent =
    page === release ? 'one release' : 'different releases: reload';
}

show().catch((error) => {
  const note = document.createElement('li');
  note.className = 'note';
  note.textContent = `The shop is closed: ${error.message}.`;
  list.replaceChildren(note);
});
