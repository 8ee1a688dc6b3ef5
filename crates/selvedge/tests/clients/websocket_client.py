"""Speaks WebSocket by `websockets`: the addresses of HTTP and HTTPS and a CA's file.

Over HTTP/1.1 as that library does, and over HTTP/2 (RFC 8441) on streams that `h2` opens. Says what it
got as JSON.
"""

import asyncio
import json
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

LARGE = b"\x00\xff" * 4_000_000


async def over_http1(url, **options):
    said = {}
    options = {"max_size": 20_000_000, "subprotocols": ["other", "echo"]} | options
    async with connect(url, **options) as client:
        said["subprotocol"] = client.subprotocol
        said["deflate"] = [extension.name for extension in client.protocol.extensions]
        await client.send("hellø")
        said["text"] = await client.recv()
        await client.send(LARGE)
        said["large"] = await client.recv() == LARGE
        await client.send(["in ", "several ", "frames"])
        said["fragments"] = await client.recv()
        await client.send("")
        said["empty"] = await client.recv()
        await asyncio.wait_for(await client.ping(b"from the client"), 20)
        await client.send("ping")
        said["ping"] = await client.recv()
        await client.send("close 4321 enough")
        try:
            await client.recv()
        except ConnectionClosed as closed:
            said["closed by the server"] = [closed.rcvd.code, closed.rcvd.reason]
    async with connect(url, **options) as client:
        await client.close(4000, "done")
        said["closed by the client"] = client.close_code
    async with connect(url, **options) as client:
        while True:
            await client.send("closed?")
            codes = (await client.recv()).split()
            if "4000" in codes:
                break
        said["seen by the server"] = True
    return said


class Http2:
    """A connection of HTTP/2 and a WebSocket on a stream of it."""

    def __init__(self, address, ca):
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        host, self.port = address.split(":")
        stream = socket.create_connection((host, self.port), timeout=60)
        self.socket = context.wrap_socket(stream, server_hostname="shop.test")
        self.http = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.http.initiate_connection()
        self.flush()
        self.events = []
        self.wait(h2.events.RemoteSettingsChanged)
        self.extended = self.http.remote_settings.enable_connect_protocol

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def wait(self, kind):
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    self.events.remove(event)
                    return event
            came = self.socket.recv(65536)
            if not came:
                raise EOFError
            for event in self.http.receive_data(came):
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.http.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                self.events.append(event)
            self.flush()

    def open(self, path):
        self.stream = self.http.get_next_available_stream_id()
        fields = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", path),
            (":authority", f"shop.test:{self.port}"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "echo"),
        ]
        self.http.send_headers(self.stream, fields)
        self.flush()
        answer = dict(self.wait(h2.events.ResponseReceived).headers)
        uri = parse_uri(f"wss://shop.test:{self.port}{path}")
        # The handshake is done: that of HTTP/2 took its place.
        self.frames = ClientProtocol(uri, state=State.OPEN, max_size=20_000_000)
        return answer

    def send(self):
        for data in self.frames.data_to_send():
            while data:
                room = self.http.local_flow_control_window(self.stream)
                size = min(room, self.http.max_outbound_frame_size, len(data))
                if size == 0:
                    self.wait(h2.events.WindowUpdated)
                    continue
                self.http.send_data(self.stream, data[:size])
                self.flush()
                data = data[size:]

    def receive(self):
        """The next message; pings are answered on the way. None: it was closed."""
        parts = []
        while True:
            for event in self.frames.events_received():
                if event.opcode is Opcode.CLOSE:
                    self.send()
                    return None
                if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    parts.append(event.data)
                    if event.fin:
                        self.send()
                        return b"".join(parts)
                elif event.opcode is Opcode.PONG:
                    return ["pong", event.data.decode()]
            self.send()
            self.frames.receive_data(self.wait(h2.events.DataReceived).data)


def over_http2(address, ca):
    client = Http2(address, ca)
    answer = client.open("/socket")
    said = {
        "extended connect": client.extended,
        "status": answer[":status"],
        "subprotocol": answer.get("sec-websocket-protocol"),
        "accept": answer.get("sec-websocket-accept"),
    }
    client.frames.send_text("hellø".encode())
    client.send()
    said["text"] = client.receive().decode()
    client.frames.send_binary(LARGE)
    client.send()
    said["large"] = client.receive() == LARGE
    client.frames.send_ping(b"from the client")
    client.send()
    said["pong"] = client.receive()
    client.frames.send_text(b"ping")
    client.send()
    said["ping"] = client.receive().decode()
    client.frames.send_text(b"close 4321 enough")
    client.send()
    said["message after"] = client.receive()
    closed = client.frames.close_rcvd
    said["closed"] = [closed.code, closed.reason]
    # The stream ends with it, the connection goes on.
    client.wait(h2.events.StreamEnded)
    said["again"] = client.open("/socket")[":status"]
    return said


async def main(http, https, ca):
    context = ssl.create_default_context(cafile=ca)
    tls = {"ssl": context, "server_hostname": "shop.test"}
    said = {
        "http": await over_http1(f"ws://{http}/socket"),
        "https": await over_http1(f"wss://{https}/socket", **tls),
        "http2": await asyncio.to_thread(over_http2, https, ca),
    }
    print(json.dumps(said))


asyncio.run(main(*sys.argv[1:]))
