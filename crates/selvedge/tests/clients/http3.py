"""Speaks HTTP/3 by aioquic: ADDRESS and a CA's file. Says what it got as JSON."""

import asyncio
import json
import socket
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamReset

HOST = "shop.test"


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.http = H3Connection(self._quic)
        self.answers = {}

    async def ask(self, method, path, body=b"", trailers=None):
        stream = self._quic.get_next_available_stream_id()
        fields = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", HOST.encode()),
            (b":path", path.encode()),
        ]
        if trailers:
            fields.append((b"te", b"trailers"))
        answer = {"headers": [], "body": b"", "done": asyncio.get_running_loop().create_future()}
        self.answers[stream] = answer
        self.http.send_headers(stream, fields, end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=not trailers)
        if trailers:
            self.http.send_headers(stream, trailers, end_stream=True)
        self.transmit()
        await asyncio.wait_for(answer["done"], 20)
        return answer

    def quic_event_received(self, event):
        if isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id]["done"].set_exception(ConnectionResetError())
            return
        for part in self.http.handle_event(event):
            answer = self.answers.get(getattr(part, "stream_id", None))
            if answer is None:
                continue
            if isinstance(part, HeadersReceived):
                answer["headers"].append({n.decode(): v.decode() for n, v in part.headers})
            elif isinstance(part, DataReceived):
                answer["body"] += part.data
            if part.stream_ended:
                answer["done"].set_result(None)


async def main(address, ca):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=HOST)
    configuration.load_verify_locations(ca)
    said = {}
    host, port = address.split(":")
    async with connect(
        host, int(port), configuration=configuration, create_protocol=Client
    ) as client:
        page = await client.ask("GET", "/page")
        said["page"] = [page["headers"][0], page["body"].decode()]
        again = await client.ask("GET", "/page")
        said["again"] = again["headers"][0]["cache-status"]
        large = b"x" * 3_000_000
        echoed = await client.ask("POST", "/echo", large)
        said["echoed"] = [echoed["headers"][0][":status"], echoed["body"] == large]
        many = await asyncio.gather(*(client.ask("GET", f"/page?{n}") for n in range(100)))
        said["many"] = sorted({answer["headers"][0][":status"] for answer in many})
        traced = await client.ask("TRACE", "/page")
        said["refused"] = traced["headers"][0][":status"]
        # The client's address changes, and the connection stays.
        other = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        other.bind(("::", 0))
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: client, sock=other)
        client.change_connection_id()
        moved = await client.ask("GET", "/page")
        said["moved"] = moved["headers"][0][":status"]
    print(json.dumps(said))


asyncio.run(main(*sys.argv[1:]))
