import { createRoom } from './room.js';

const room = createRoom({ release: process.env.SELVEDGE_RELEASE });
room.server.listen(process.env.PORT ?? 3000, '127.0.0.1');
process.on('SIGTERM', room.close);
