"""Requests to a server whose visual rows are watched: answers, times, and a load that must leave no memory behind."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.decoder_cuda.checks import require
from client import VisionChat
from client.answer import Answer
from client.errors import BadRequest
from engines.cuda_driver import Gpu
from engines.fidelity.cases import animation, picture
from triton_repo.server import TritonServer

AT_ONCE, REQUEST_SECONDS = 8, 60
TOKENS = 16
LOST_MIB = 256
# Longer than memory takes to be given back after the last answer.
SETTLE_SECONDS = 2


@dataclass(frozen=True)
class Served:
    """A running server and the measured requests to it."""

    server: TritonServer
    large: bytes

    def ask(self, text: str, images: list[bytes], tokens: int = TOKENS, videos: list[bytes] = ()) -> Answer:
        chat = VisionChat(f"127.0.0.1:{self.server.endpoints.grpc}", timeout=REQUEST_SECONDS)
        return chat.ask(text, images=images, videos=videos, max_tokens=tokens)

    def row_bytes(self) -> tuple[float, float]:
        """Bytes of rows that the decoder got in the GPU's memory, and in the host's; told four times a second."""
        time.sleep(1)
        url = f"http://127.0.0.1:{self.server.endpoints.metrics}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            lines = [line.split() for line in response.read().decode().splitlines() if line.startswith("qwen3vl_")]
        values = {line[0].partition("{")[0]: float(line[-1]) for line in lines}
        return values["qwen3vl_device_row_bytes"], values["qwen3vl_host_row_bytes"]

    def answers(self) -> list[Answer]:
        small = [picture(320, 224, seed) for seed in range(3)]
        return [self.ask("What is in the picture?", [self.large]), self.ask("And these?", small),
                self.ask("Words alone", []), self.ask("What moves?", [], videos=[animation(160, 128, 4, 5)])]

    def seconds(self, rounds: int) -> list[float]:
        """Of one request after the other with the large image, to its only token."""
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            self.ask("What is in the picture?", [self.large], tokens=1)
            found.append(time.perf_counter() - began)
        return found

    def load(self, requests: int) -> str:
        """GPU memory before and after requests, of which every fifth hangs up and every seventh is refused."""
        def one(number: int) -> None:
            images = [self.large] if number % 3 == 0 else [picture(320, 224, number % 4)]
            if number % 5 == 1:
                chat = VisionChat(f"127.0.0.1:{self.server.endpoints.grpc}", timeout=REQUEST_SECONDS)
                with chat.stream("Hang up", images=images, max_tokens=200) as deltas:
                    deltas.cancel()
            elif number % 7 == 2:
                with contextlib.suppress(BadRequest):
                    self.ask("Refused", [*images, b"no picture"])
                    raise AssertionError("a broken picture was not refused")
            else:
                self.ask("What is there?", images, tokens=4)

        def settled() -> int:
            time.sleep(SETTLE_SECONDS)
            return Gpu().memory()[0]

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, range(2 * AT_ONCE)))  # what is allocated once, is
            before = settled()
            list(pool.map(one, range(requests)))
        after = settled()
        self.server.check()
        lost = (before - after) / 2**20
        require(lost < LOST_MIB, f"{lost:.0f} MiB are gone after {requests} requests")
        return f"{lost:+.0f} MiB of GPU memory after {requests} requests, {AT_ONCE} at a time"
