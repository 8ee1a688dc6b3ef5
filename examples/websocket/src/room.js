import { createServer } from 'node:http';
import { WebSocketServer, WebSocket } from 'ws';

const MAX_MESSAGE_BYTES = 16 * 1024;
// Below the five minutes after which an idle connection is closed on its way here.
const PING_INTERVAL_MS = 60_000;

/** An HTTP server with one chat room at /chat. Everybody gets what anybody says. */
export function createRoom({ release = 'development' } = {}) {
  const server = createServer((request, response) => {
    const known = request.url === '/chat/healthz';
    response.writeHead(known ? 200 : 404, { 'content-type': 'text/plain' });
    response.end(known ? 'ok\n' : 'not found\n');
  });
  const sockets = new WebSocketServer({ server, path: '/chat', maxPayload: MAX_MESSAGE_BYTES });
  const tell = (message) => {
    const text = JSON.stringify(message);
    for (const client of sockets.clients) {
      if (client.readyState === WebSocket.OPEN) client.send(text);
    }
  };
  sockets.on('connection', (socket) => {
    socket.send(JSON.stringify({ welcome: release, here: sockets.clients.size }));
    socket.on('message', (data) => tell({ said: data.toString(), release }));
    socket.on('error', () => socket.terminate());
  });
  const pings = setInterval(() => {
    for (const client of sockets.clients) client.ping();
  }, PING_INTERVAL_MS);
  pings.unref();
  const close = () => {
    clearInterval(pings);
    for (const client of sockets.clients) client.close(1001, 'the server goes away');
    sockets.close();
    server.close();
  };
  return { server, close };
}
