"""A whole server beside a split one on the same machine: time to first token and throughput.

    python -m bench.split build/bench -o bench/results/split_cpu.json

The build folder needs the model repositories of all three roles. Clients ask one request after the other; some have
images, always new ones, some only text. What has been measured is written after each load, so Ctrl-C keeps it.

Where a model takes long to load, the whole server may be one that runs: `--deployments whole --url HOST:PORT`, and
later `--deployments split --append`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.environment import describe_machine
from bench.split_plot import plot
from client.chat import VisionChat
from engines.fidelity.cases import picture
from export.build_folder import BuildFolder, replacing
from triton_repo.build_paths import BuildPaths
from triton_repo.endpoints import Endpoints
from triton_repo.roles import Role
from triton_repo.server import TritonServer
from triton_repo.split.server_list import write_servers

READY_SECONDS = 600
# Longer than a language server takes to notice its encode servers.
SETTLE_SECONDS = 3
DEPLOYMENTS = ("whole", "split")
QUESTION = "Describe what you see in detail."


@dataclass(frozen=True)
class Load:
    """Attributes: `side` of the square images, in pixels; `images` in each request that has any; `clients` that ask at
    the same time; `text_every`: of so many requests, one has none (0 for none of them); `requests` in all; `tokens` of
    each answer."""

    side: int
    images: int
    clients: int
    text_every: int
    requests: int
    tokens: int


@dataclass(frozen=True)
class Measured:
    """One load on one deployment. Times in seconds, median and 90th percentile; rates over the whole load."""

    deployment: str
    round: int
    load: Load
    seconds: float
    image_first: tuple[float, float] | None
    text_first: tuple[float, float] | None
    tokens_per_second: float
    images_per_second: float


class Questions:
    """Requests of a load. No picture comes twice, in any load."""

    _seeds = itertools.count(1)

    def __init__(self, load: Load) -> None:
        self._load = load
        prepared = [self._one(i) for i in range(load.requests)]
        self._next = iter(prepared)
        self._lock = threading.Lock()

    def take(self) -> tuple[str, list[bytes]] | None:
        with self._lock:
            return next(self._next, None)

    def _one(self, i: int) -> tuple[str, list[bytes]]:
        text = self._load.text_every and i % self._load.text_every == self._load.text_every - 1
        count = 0 if text else self._load.images
        return f"{QUESTION} {i}", [picture(self._load.side, self._load.side, next(self._seeds)) for _ in range(count)]


def run_load(url: str, load: Load) -> list[tuple[bool, float, int]]:
    """Have all requests of a load answered; whether each has images, seconds to its first piece of text, its tokens."""
    questions, answered = Questions(load), []

    def client() -> None:
        chat = VisionChat(url)
        while (question := questions.take()) is not None:
            started = time.perf_counter()
            pieces = [(time.perf_counter() - started, delta.usage.completion_tokens)
                      for delta in chat.stream(*question, max_tokens=load.tokens)]
            answered.append((bool(question[1]), pieces[0][0], pieces[-1][1]))

    threads = [threading.Thread(target=client) for _ in range(load.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(answered) != load.requests:
        raise RuntimeError(f"{load.requests - len(answered)} of {load.requests} requests failed")
    return answered


def measure(url: str, deployment: str, number: int, load: Load) -> Measured:
    started = time.perf_counter()
    answered = run_load(url, load)
    seconds = time.perf_counter() - started
    with_images = [first for has_images, first, _ in answered if has_images]
    return Measured(deployment, number, load, seconds, _spread(with_images),
                    _spread([first for has_images, first, _ in answered if not has_images]),
                    sum(tokens for _, _, tokens in answered) / seconds, len(with_images) * load.images / seconds)


def _spread(values: Sequence[float]) -> tuple[float, float] | None:
    return tuple(np.percentile(values, [50, 90]).tolist()) if values else None


@contextmanager
def serving(build: Path, deployment: str, encode_servers: int) -> Iterator[str]:
    """A whole server, or a language server and its encode servers, on free ports. Yields host:port to ask."""
    free = Endpoints(http=0, grpc=0, metrics=0)
    with ExitStack() as stack:

        def start(role: Role) -> str:
            server = stack.enter_context(TritonServer(build, endpoints=free, role=role))
            server.wait_ready(READY_SECONDS)
            return f"{server.endpoints.local_host}:{server.endpoints.grpc}"

        if deployment == "whole":
            yield start(Role.BOTH)
            return
        file = BuildPaths(build).encode_servers_file
        before = file.read_text() if file.exists() else None
        stack.callback(lambda: file.unlink() if before is None else file.write_text(before))
        write_servers(file, [start(Role.ENCODE) for _ in range(encode_servers)])
        language = start(Role.LANGUAGE)
        time.sleep(SETTLE_SECONDS)
        yield language


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="a build folder, composed for each role")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the report, JSON; the plot goes beside it")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 4], help="images in a request (default: 1 2 4)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="requests at a time (default: 1 8)")
    parser.add_argument("--text-every", type=int, default=3,
                        help="of so many requests, one has no images; 0 for none (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=24, help="of each load (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer (default: %(default)s)")
    parser.add_argument("--side", type=int, nargs="+", default=[448],
                        help="of the square images, pixels (default: 448)")
    parser.add_argument("--encode-servers", type=int, default=1, help="of the split one (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="each deployment is started so often (default: 3)")
    parser.add_argument("--deployments", nargs="+", choices=DEPLOYMENTS, default=DEPLOYMENTS,
                        help="(default: whole split)")
    parser.add_argument("--url", metavar="HOST:PORT", help="a server that runs already, instead of starting one")
    parser.add_argument("--append", action="store_true", help="to what the report has already")
    args = parser.parse_args()
    if args.url and (len(args.deployments) > 1 or args.rounds > 1):
        parser.error("--url is one server that runs: name one of --deployments, and --rounds 1")
    loads = [Load(side, images, clients, args.text_every, args.requests, args.tokens)
             for side in args.side for clients in args.clients for images in args.images]
    report = {"command": shlex.join(["python", "-m", "bench.split", *sys.argv[1:]]), **describe_machine(),
              "model": BuildFolder(args.build).manifest["config"], "target": BuildFolder(args.build).manifest["target"],
              "encode_servers": args.encode_servers, "measured": []}
    if args.append:
        report["measured"] = json.loads(args.output.read_text())["measured"]
    for number, deployment in itertools.product(range(args.rounds), args.deployments):
        print(f"round {number + 1} of {args.rounds}: {deployment} ...", file=sys.stderr, flush=True)
        server = nullcontext(args.url) if args.url else serving(args.build, deployment, args.encode_servers)
        with server as url:
            run_load(url, Load(args.side[0], 1, 1, 0, 2, 2))  # loads the vision engine and warms up
            for load in loads:
                measured = measure(url, deployment, number, load)
                report["measured"].append(asdict(measured))
                _write(report, args.output)
                print(_line(measured), flush=True)
    plot(report, args.output.with_suffix(".png"))
    print(f"{args.output} and its plot are written")


def _write(report: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def _line(measured: Measured) -> str:
    load = measured.load
    times = [f"{name} {1e3 * spread[0]:7.1f} ms" for name, spread in (("image", measured.image_first),
                                                                      ("text", measured.text_first)) if spread]
    return (f"{measured.deployment:6} {load.clients:3} clients, {load.images} images of {load.side}: first token "
            f"{', '.join(times)}; {measured.tokens_per_second:7.1f} tokens/s, {measured.images_per_second:6.2f} "
            "images/s")


if __name__ == "__main__":
    main()
