"""A WebSocket server that echoes, by `websockets`, on a port of its own choice, which it prints.

`close CODE REASON` has it close so.
"""

import asyncio

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    try:
        await answer(connection)
    except ConnectionClosed:
        pass
    closed.append(str(connection.close_code))


async def answer(connection):
    async for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await connection.close(int(code), reason)
        elif message == "closed?":
            await connection.send(" ".join(closed))
        elif message == "ping":
            await (await connection.ping(b"from the server"))
            await connection.send("pong")
        else:
            await connection.send(message)


closed = []


async def main():
    options = {"subprotocols": ["echo"], "max_size": 20_000_000}
    async with serve(echo, "127.0.0.1", 0, **options) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
