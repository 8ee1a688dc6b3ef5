import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { WebSocket } from 'ws';
import { createRoom } from '../src/room.js';

async function enter(port) {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/chat`);
  const messages = [];
  let wake = () => {};
  socket.on('message', (data) => {
    messages.push(JSON.parse(data));
    wake();
  });
  const next = async () => {
    while (messages.length === 0) await new Promise((resolve) => (wake = resolve));
    return messages.shift();
  };
  await once(socket, 'open');
  return { socket, next };
}

test('everybody hears what anybody says', async () => {
  const room = createRoom({ release: 'abc' });
  room.server.listen(0, '127.0.0.1');
  await once(room.server, 'listening');
  const { port } = room.server.address();
  const one = await enter(port);
  assert.deepEqual(await one.next(), { welcome: 'abc', here: 1 });
  const other = await enter(port);
  assert.deepEqual(await other.next(), { welcome: 'abc', here: 2 });
  one.socket.send('hello');
  for (const visitor of [one, other]) {
    assert.deepEqual(await visitor.next(), { said: 'hello', release: 'abc' });
  }
  const closed = Promise.all([once(one.socket, 'close'), once(other.socket, 'close')]);
  room.close();
  for (const [code] of await closed) assert.equal(code, 1001);
});
