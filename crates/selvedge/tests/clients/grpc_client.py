"""Speaks gRPC by grpcio: the addresses of HTTP and HTTPS and a CA's file.

Asks the services `plain.Echo` and `tls.Echo`, which differ in how the proxy reaches them, and
`gone.Echo`, which it can't reach. Says what it got as JSON.
"""

import json
import queue
import sys
import time

import grpc

LARGE = b"x" * 1_000_000


def status(call):
    try:
        list(call) if hasattr(call, "__iter__") else call
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


def battery(channel, service):
    said = {}
    unary = channel.unary_unary(f"/{service}/Unary")
    asked = (("x-asked", "it"), ("x-asked-bin", b"\x00\xff"))
    answer, call = unary.with_call(b"hello", metadata=asked, timeout=60)
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    said["unary"] = [
        answer.decode(),
        first.get("x-first"),
        last.get("x-last-bin") == b"\x00\xff",
        call.code().name,
    ]
    said["large"] = unary(LARGE, timeout=60) == LARGE + b" in time"
    said["compressed"] = (
        unary(LARGE, compression=grpc.Compression.Gzip, timeout=60) == LARGE + b" in time"
    )
    down = list(channel.unary_stream(f"/{service}/Down")(b"200"))
    said["down"] = [len(down), len(down[0]), down[199].decode()]
    up = channel.stream_unary(f"/{service}/Up")
    said["up"] = up(LARGE[:300_000] for _ in range(10)).decode()

    # Each message is sent only once the one before has come back.
    to_send = queue.SimpleQueue()
    both = channel.stream_stream(f"/{service}/Both")(iter(to_send.get, None))
    said["both"] = []
    for text in [b"ab", b"cd", b"ef"]:
        to_send.put(text)
        said["both"].append(next(both).decode())
    to_send.put(None)
    said["both"].append(len(list(both)))

    try:
        channel.unary_unary(f"/{service}/Fail")(b"")
    except grpc.RpcError as error:
        why = dict(error.trailing_metadata()).get("x-why")
        said["fail"] = [error.code().name, error.details(), why]
    late = channel.unary_stream(f"/{service}/FailLate")(b"")
    said["fail late"] = [next(late).decode(), *status(late)]
    try:
        channel.unary_unary(f"/{service}/None")(b"")
    except grpc.RpcError as error:
        said["none"] = error.code().name

    # The server sees that nobody waits any more, be it by deadline or by the client's wish.
    cancelled = channel.unary_unary(f"/{service}/Cancelled")
    before = int(cancelled(b""))
    never = channel.unary_stream(f"/{service}/Never")
    in_time = never(b"", timeout=1)
    said["deadline"] = [next(in_time).decode(), status(in_time)[0]]
    taken_back = never(b"")
    said["cancel"] = next(taken_back).decode()
    taken_back.cancel()
    patience = time.monotonic() + 60
    while int(cancelled(b"")) < before + 2 and time.monotonic() < patience:
        time.sleep(0.02)
    said["ended at the server"] = int(cancelled(b"")) - before
    return said


def main(http, https, ca):
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = [("grpc.ssl_target_name_override", "shop.test")]
    said = {}
    for name, channel in [
        ("http", grpc.insecure_channel(http)),
        ("https", grpc.secure_channel(https, credentials, options)),
    ]:
        with channel:
            for service in ["plain", "tls"]:
                said[f"{name} {service}"] = battery(channel, f"{service}.Echo")
            try:
                channel.unary_unary("/gone.Echo/Unary")(b"")
            except grpc.RpcError as error:
                said[f"{name} gone"] = error.code().name
    print(json.dumps(said))


main(*sys.argv[1:])
