// Tests what the build made: the page as files, the API as it runs at a site.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';

const release = process.env.SELVEDGE_RELEASE ?? 'local';
let server;
let base;

before(async () => {
  server = spawn(process.execPath, ['api/dist/server.cjs'], {
    env: { ...process.env, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = await once(server.stdout.setEncoding('utf8'), 'data');
  base = `http://127.0.0.1:${line.match(/port (\d+)/)[1]}`;
});

after(async () => {
  server.kill('SIGTERM');
  const [code] = await once(server, 'exit');
  assert.equal(code, 0);
});

test('page and API name the same release', async () => {
  const page = await readFile('web/dist/index.html', 'utf8');
  assert.match(page, new RegExp(`name="release" content="${release}"`));
  const { release: api } = await (await fetch(`${base}/api/products`)).json();
  assert.equal(api, release);
});

test('products are found by id', async () => {
  const { product } = await (await fetch(`${base}/api/products/tweed`)).json();
  assert.equal(product.origin, 'Harris');
  assert.equal((await fetch(`${base}/api/products/silk`)).status, 404);
});
