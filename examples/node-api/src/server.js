// Listens on $PORT, and at SIGTERM finishes the requests it has before it ends.
import { createApp } from './app.js';

const release = process.env.SELVEDGE_RELEASE ?? 'local';
const site = process.env.SELVEDGE_SITE ?? 'local';
const server = createApp({ release, site }).listen(Number(process.env.PORT ?? 3000), (error) => {
  if (error) {
    console.error(`can't listen: ${error.message}`);
    process.exit(1);
  }
  console.log(`release ${release} listens on port ${server.address().port}`);
});

// The proxy keeps connections for reuse: they must outlive its own idle timeout, so that it never
// sends a request into one that is just closing.
server.keepAliveTimeout = 120_000;

process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
