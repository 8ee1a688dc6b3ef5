// The shop's API: listens on $PORT, and at SIGTERM finishes the requests it has before it ends.
import express from 'express';

const release = process.env.SELVEDGE_RELEASE ?? 'local';
const site = process.env.SELVEDGE_SITE ?? 'local';

const products = [
  { id: 'denim', name: 'Denim', origin: 'Okayama', colour: 'indigo', centsPerMetre: 3400 },
  { id: 'linen', name: 'Linen', origin: 'Kortrijk', colour: 'flax', centsPerMetre: 2850 },
  { id: 'tweed', name: 'Tweed', origin: 'Harris', colour: 'slate', centsPerMetre: 5200 },
  { id: 'serge', name: 'Serge', origin: 'Nîmes', colour: 'madder', centsPerMetre: 4100 },
];

const app = express();
app.disable('x-powered-by');

app.get('/healthz', (_request, response) => {
  response.json({ ok: true });
});

app.get('/api/products', (_request, response) => {
  response.json({ release, site, products });
});

app.get('/api/products/:id', (request, response) => {
  const product = products.find(({ id }) => id === request.params.id);
  if (product) response.json({ release, product });
  else response.status(404).json({ release, error: `there is no product ${request.params.id}` });
});

app.use((request, response) => {
  response.status(404).json({ release, error: `nothing at ${request.path}` });
});

const server = app.listen(Number(process.env.PORT ?? 3000), (error) => {
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
