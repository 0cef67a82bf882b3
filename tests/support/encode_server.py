"""An encode server without Triton: the same sender behind a small gRPC server of the same protocol.

It starts in a fraction of Triton's time, so that it can be killed in every state, and runs in the test's own process too,
so that a test can look into it. What must hold with Triton is tested with Triton as well.
"""

from __future__ import annotations

import hashlib
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from qwen3vl.errors import InvalidRequest, Overloaded
from triton_repo.handoff.encode_task import EncodeTask
from triton_repo.handoff.job import EncodeJob, RowsDescription
from triton_repo.handoff.sender import HandoffSender
from triton_repo.handoff.settings import SenderSettings
from triton_repo.handoff.stream import OPTIONS

DESCRIPTION = RowsDescription(hidden=32, levels=3, merge=2, dtype="FP32", engine="test")


def make_job(seed: int = 0, grid: tuple[int, int, int] = (1, 8, 8), **orders: object) -> EncodeJob:
    """A job whose media tell the test encoder what to do; see `test_encoder`."""
    media = json.dumps({"seed": seed, **orders}).encode()
    return EncodeJob(f"request-{seed}", hashlib.sha256(media).digest(), media, "image", grid)


def rows_of(job: EncodeJob, description: RowsDescription = DESCRIPTION) -> np.ndarray:
    """The rows that every test encoder makes of a job: random, but always the same."""
    rows = description.tokens(job.grid) * description.rows_per_token
    bits = np.random.default_rng(json.loads(job.media)["seed"]).integers(
        0, 256, rows * description.hidden * description.numpy_dtype.itemsize, np.uint8)
    # Numbers that are not numbers would not compare equal.
    return np.nan_to_num(bits.view(description.numpy_dtype)).reshape(rows, description.hidden)


def encode(task: EncodeTask, description: RowsDescription = DESCRIPTION) -> None:
    """Encode in a thread of its own: `seconds` long, then fail as `fail` says or deliver."""

    def work() -> None:
        orders = json.loads(task.job.media)
        time.sleep(orders.get("seconds", 0))
        errors = {"invalid": InvalidRequest("the picture is no picture"), "busy": Overloaded("too much to do"),
                  "broken": RuntimeError("the engine broke")}
        task.deliver(errors.get(orders.get("fail")) or rows_of(task.job, description))

    threading.Thread(target=work, daemon=True).start()


class EncodeServer:
    """Serves a sender on 127.0.0.1.

    Attributes:
        sender: the sender.
        url: host:port.
    """

    def __init__(self, sender: HandoffSender, port: int = 0) -> None:
        self.sender = sender
        self._server = grpc.server(ThreadPoolExecutor(8), options=OPTIONS)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(sender), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.url = f"127.0.0.1:{self.port}"
        self._server.start()

    def __enter__(self) -> EncodeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()
        self.sender.close()


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, sender: HandoffSender) -> None:
        self._sender = sender

    def ModelStreamInfer(self, requests: Iterator, context: grpc.ServicerContext) -> Iterator:  # noqa: N802
        responses: queue.SimpleQueue = queue.SimpleQueue()
        gone = threading.Event()
        context.add_callback(lambda: (gone.set(), responses.put(None)))

        def read() -> None:
            try:
                for request in requests:
                    tensors = {tensor.name: np.frombuffer(raw, np.uint8) for tensor, raw in
                               zip(request.inputs, request.raw_input_contents, strict=True)}
                    self._sender.handle(tensors["message"].tobytes(), tensors.get("payload"),
                                        _StreamReply(responses, gone))
            except Exception:
                responses.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (response := responses.get()) is not None:
            yield response


class _StreamReply:
    def __init__(self, responses: queue.SimpleQueue, gone: threading.Event) -> None:
        self._responses, self._gone, self._finished = responses, gone, False

    def send(self, message: bytes, payload: np.ndarray | None) -> None:
        assert not self._finished, "a message after the last"
        response = service_pb2.ModelInferResponse(model_name="encode")
        tensors = {"message": message} | ({} if payload is None else {"payload": payload.tobytes()})
        for name, raw in tensors.items():
            response.outputs.add(name=name, datatype="UINT8", shape=[len(raw)])
            response.raw_output_contents.append(raw)
        self._responses.put(service_pb2.ModelStreamInferResponse(infer_response=response))

    def finish(self) -> None:
        assert not self._finished, "finished twice"
        self._finished = True

    def cancelled(self) -> bool:
        return self._gone.is_set()


def main() -> None:
    """`python -m tests.support.encode_server PORT`: serve until killed; prints the port."""
    server = EncodeServer(HandoffSender(encode, DESCRIPTION, SenderSettings()), int(sys.argv[1]))
    print(server.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
