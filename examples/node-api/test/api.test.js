// Tests what the build made, as it runs at a site: started with $PORT, ended with SIGTERM.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { after, before, test } from 'node:test';

let server;
let base;

before(async () => {
  server = spawn(process.execPath, ['dist/server.cjs'], {
    env: { ...process.env, PORT: '0', SELVEDGE_RELEASE: 'abc123' },
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

const get = async (path) => {
  const response = await fetch(base + path);
  return [response.status, await response.json()];
};

const price = async (body) => {
  const response = await fetch(`${base}/orders/price`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  return [response.status, await response.json()];
};

test('every answer names its release', async () => {
  for (const path of ['/', '/healthz', '/products', '/products/denim', '/nowhere']) {
    const [, body] = await get(path);
    assert.equal(body.release, 'abc123', path);
  }
});

test('products are found by id', async () => {
  assert.equal((await get('/products/linen'))[1].product.name, 'Linen, washed');
  assert.equal((await get('/products/silk'))[0], 404);
});

test('orders are priced, and bad ones refused', async () => {
  const [status, body] = await price({ lines: [{ product: 'denim', metres: 2.5 }] });
  assert.deepEqual([status, body.cents], [200, 8500]);
  assert.equal((await price({ lines: [] }))[0], 422);
  assert.equal((await price({ lines: [{ product: 'silk', metres: 1 }] }))[0], 422);
});
