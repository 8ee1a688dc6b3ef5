"""A gRPC server on two ports of its own choice, in the clear and over TLS: CERTIFICATE and KEY.

Its messages are bytes, so that nothing has to be generated. Prints its ports as JSON.
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc


class Echo(grpc.GenericRpcHandler):
    def __init__(self):
        self.lock = threading.Lock()
        self.cancelled = 0

    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
            "Never": grpc.unary_stream_rpc_method_handler(self.never),
            "Cancelled": grpc.unary_unary_rpc_method_handler(self.how_many_cancelled),
        }.get(name)

    def unary(self, request, context):
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-first", sent.get("x-asked", "")),))
        context.set_trailing_metadata((("x-last-bin", sent.get("x-asked-bin", b"")),))
        remaining = context.time_remaining()
        return request + (b"" if remaining is None or remaining > 3600 else b" in time")

    def down(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number * (1 if number else 1_000_000)

    def up(self, requests, context):
        return b"%d" % sum(len(request) for request in requests)

    def both(self, requests, context):
        for request in requests:
            yield request[::-1]

    def fail(self, request, context):
        context.set_trailing_metadata((("x-why", "none"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "there is no ü")

    def fail_late(self, request, context):
        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    def never(self, request, context):
        def ended():
            with self.lock:
                self.cancelled += 1

        context.add_callback(ended)
        yield b"begun"
        while context.is_active():
            time.sleep(0.02)

    def how_many_cancelled(self, request, context):
        with self.lock:
            return b"%d" % self.cancelled


def main(certificate, key):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    server.add_generic_rpc_handlers((Echo(),))
    plain = server.add_insecure_port("127.0.0.1:0")
    with open(key, "rb") as key, open(certificate, "rb") as certificate:
        credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
    tls = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    print(json.dumps({"plain": plain, "tls": tls}), flush=True)
    server.wait_for_termination()


main(*sys.argv[1:])
