"""Start children as Ray does while other threads run gRPC; print how many crashed before their program began."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from ray._private.utils import set_kill_on_parent_death_linux

TALKERS = 4


class Echo(grpc.GenericRpcHandler):
    """A server that echoes the stream of any method."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(lambda requests, _: (request for request in requests))


def talk(port: int) -> None:
    """Open and close channels, one of them to a port without a listener, as a proxy of Ray clients does."""
    while True:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, grpc.insecure_channel("127.0.0.1:1") as nobody:
            grpc.channel_ready_future(nobody)
            for _ in channel.stream_stream("/echo/echo")(iter([b"x"] * 20)):
                pass


def before_exec() -> None:
    """Do what Ray does in a child (``services.start_ray_process``); as a preexec_fn it makes subprocess fork."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    set_kill_on_parent_death_linux()


def children(count: int) -> Iterator[int]:
    """Exit codes of children whose program would end with 7."""
    for _ in range(count):
        yield subprocess.run(["sh", "-c", "exit 7"], preexec_fn=before_exec, check=False).returncode


def main(count: int) -> dict[int, int]:
    """Start ``count`` children; count their exit codes."""
    server = grpc.server(ThreadPoolExecutor(2 * TALKERS))
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    for _ in range(TALKERS):
        threading.Thread(target=talk, args=(port,), daemon=True).start()
    return dict(Counter(children(count)))


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))), flush=True)
    os._exit(0)  # The talking threads never end.
