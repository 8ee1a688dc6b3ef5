// The API itself, without a port.
import express from 'express';
import { z } from 'zod';

import { products } from './products.js';

const Order = z.object({
  lines: z
    .array(z.object({ product: z.string(), metres: z.number().positive().max(1000) }))
    .min(1)
    .max(50),
});

export function createApp({ release, site }) {
  const app = express();
  app.disable('x-powered-by');
  app.use(express.json({ limit: '64kb' }));

  app.get('/healthz', (_request, response) => {
    response.json({ ok: true, release });
  });

  app.get('/', (_request, response) => {
    response.json({
      service: 'node-api',
      release,
      site,
      node: process.version,
      try: ['/products', '/products/denim', 'POST /orders/price'],
    });
  });

  app.get('/products', (_request, response) => {
    response.json({ release, products });
  });

  app.get('/products/:id', (request, response) => {
    const product = products.find(({ id }) => id === request.params.id);
    if (!product) {
      response.status(404).json({ release, error: `there is no product ${request.params.id}` });
      return;
    }
    response.json({ release, product });
  });

  app.post('/orders/price', (request, response) => {
    const order = Order.safeParse(request.body);
    if (!order.success) {
      response.status(422).json({ release, error: z.prettifyError(order.error) });
      return;
    }
    let cents = 0;
    for (const { product: id, metres } of order.data.lines) {
      const product = products.find((candidate) => candidate.id === id);
      if (!product) {
        response.status(422).json({ release, error: `there is no product ${id}` });
        return;
      }
      cents += Math.round(product.centsPerMetre * metres);
    }
    response.json({ release, cents, currency: 'EUR' });
  });

  app.use((request, response) => {
    response.status(404).json({ release, error: `nothing at ${request.path}` });
  });

  // Express knows an error handler by its four parameters.
  app.use((error, _request, response, _next) => {
    const status = error.status ?? 500;
    if (status >= 500) console.error(error);
    response.status(status).json({ release, error: status < 500 ? error.message : 'it is our fault' });
  });

  return app;
}
