"""From an image's encoded bytes to the first piece of streamed text, through a server that runs.

    python -m bench.gpu_serving.first_token BUILD --url HOST:PORT --output first_token.json

Each request has a picture of its own, 1920 x 1080 with noise on it as photographs have, and the same question; the text
around the picture has 66 tokens. Where the time goes: preparing the picture and encoding it are timed in this process,
with the same code on the same machine; a prompt of as many tokens without a picture, and one with the text alone, are
asked of the server. What is left is the way of patches and visual rows between the server's processes.
"""

from __future__ import annotations

import argparse
import bisect
import io
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bench.environment import describe_machine
from bench.gpu_serving.first_token_plot import plot
from bench.gpu_serving.gpu import describe_gpu
from bench.gpu_serving.server_times import ServerTimes
from client.chat import VisionChat
from engines.fidelity.cases import picture
from engines.vision_encoder import vision_encoder
from export.build_folder import BuildFolder, replacing
from qwen3vl.processor import ModelInputs, Processor

NOISE = 6.0  # standard deviation, of 255
QUALITY = 90  # of JPEG
LETTERS, LETTERS_PER_TOKEN = "abcdefghijklmnopqrstuvwxyz      ", 4
ANSWER = 4  # tokens


def photograph(size: tuple[int, int], seed: int, kind: str) -> bytes:
    """A file of `picture` with noise, as "JPEG" or "PNG"."""
    pixels = np.asarray(Image.open(io.BytesIO(picture(*size, seed)))).astype(np.float32)
    pixels += np.random.default_rng(seed).normal(0, NOISE, pixels.shape).astype(np.float32)
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, kind, quality=QUALITY)
    return stream.getvalue()


def messages_of(tokens: int, processor: Processor, images: int) -> list:
    """A message of a user with so many tokens of text, those of the chat's frame and around the images among them.

    The text is of random letters: equal tokens would all be sent to the same experts.
    """
    random = np.random.default_rng(tokens)
    letters = "".join(random.choice(list(LETTERS), size=LETTERS_PER_TOKEN * tokens))
    tiny = picture(64, 64, seed=0)

    def made(count: int) -> list:
        return [{"role": "user", "content": [*[{"type": "image"}] * images, {"type": "text", "text": letters[:count]}]}]

    def found(count: int) -> int:
        token_ids = processor.prompt(made(count), images=[tiny] * images).token_ids
        return int((token_ids < processor.config.text.vocab_size).sum())

    return made(bisect.bisect_left(range(1, len(letters)), tokens, key=found) + 1)


def first_seconds(chat: VisionChat, messages: list, images: Sequence[bytes], answer: int) -> float:
    """Seconds until the first piece of text; the answer is read to its end, so that the server is idle again."""
    started = time.perf_counter()
    with chat.stream(messages, images=images, max_tokens=answer) as deltas:
        next(deltas)
        first = time.perf_counter() - started
        for _ in deltas:
            pass
    return first


def spread(values: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    return {"median": 1e3 * statistics.median(values), "least": 1e3 * min(values), "largest": 1e3 * max(values),
            "count": len(values)}


def seconds(run: Callable[[int], object], repeats: int, uncounted: int = 2) -> list[float]:
    """Of calls with 0, 1, 2, ..."""
    found = []
    for i in range(repeats + uncounted):
        started = time.perf_counter()
        run(i)
        found.append(time.perf_counter() - started)
    return found[uncounted:]


class Requests:
    """Pictures, each for one request, and their question.

    Args:
        text: tokens around the picture.
    """

    def __init__(self, processor: Processor, size: tuple[int, int], text: int, count: int):
        self.processor, self.messages = processor, messages_of(text, processor, 1)
        with ThreadPoolExecutor() as pool:
            self.files = {kind: list(pool.map(lambda seed, kind=kind: photograph(size, seed, kind),
                                              range(first, first + count)))
                          for first, kind in ((1, "JPEG"), (1 + count, "PNG"))}
        token_ids = processor.prompt(self.messages, images=self.files["JPEG"][:1]).token_ids
        self.prompt_tokens = len(token_ids)
        self.text_tokens = int((token_ids < processor.config.text.vocab_size).sum())

    def prepared(self, kind: str, i: int) -> ModelInputs:
        return self.processor(messages=self.messages, images=[self.files[kind][i]])


def measure(url: str, build: Path, size: tuple[int, int], text: int, repeats: int, uncounted: int) -> Iterator[dict]:
    """Everything but what it ran on, in milliseconds: first what is asked of the server, then with the parts of it."""
    processor = Processor.from_checkpoint(build / "processor")
    requests = Requests(processor, size, text, repeats + uncounted)
    chat = VisionChat(url, timeout=60)
    found = {"text_tokens": requests.text_tokens, "prompt_tokens": requests.prompt_tokens, "size": size}
    texts = {"text_as_long": messages_of(requests.prompt_tokens, processor, 0),
             "text_alone": messages_of(text, processor, 0)}
    for kind, files in requests.files.items():
        for file in files[:uncounted]:
            first_seconds(chat, requests.messages, [file], ANSWER)
        with ServerTimes(url) as server:
            values = [first_seconds(chat, requests.messages, [file], ANSWER) for file in files[uncounted:]]
        found[kind] = {"bytes": int(statistics.median(map(len, files))), "first_token": spread(values),
                       "each": [1e3 * value for value in values], "server": server.milliseconds}
        prepared = seconds(lambda i, kind=kind: requests.prepared(kind, i), repeats, uncounted)
        found[kind]["preprocess"] = spread(prepared)
        print(f"{kind}: first token {found[kind]['first_token']['median']:.1f} ms", flush=True)
    for name, messages in texts.items():
        found[name] = spread([first_seconds(chat, messages, [], ANSWER)
                              for _ in range(repeats + uncounted)][uncounted:])
    yield found
    encoder = vision_encoder(build / "engines", None)
    inputs = [requests.prepared("JPEG", i) for i in range(repeats + uncounted)]
    encoded = seconds(lambda i: encoder.encode(inputs[i].patches, inputs[i].grids), repeats, uncounted)
    found["vision"] = spread(encoded)
    yield {**found, "parts": {kind: parts(found, kind) for kind in requests.files}}


def parts(found: dict, kind: str) -> dict[str, float]:
    """Where a request's milliseconds go; they add up to its time to the first token."""
    whole = found[kind]["first_token"]["median"]
    known = {"preprocess": found[kind]["preprocess"]["median"], "vision encoder": found["vision"]["median"],
             "prompt and first token": found["text_as_long"]["median"] - found["text_alone"]["median"],
             "a short request": found["text_alone"]["median"]}
    return {**known, "hand-over and the rest": whole - sum(known.values())}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="its build folder")
    parser.add_argument("--url", required=True, metavar="HOST:PORT", help="the server's gRPC endpoint")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write; a plot goes beside it")
    parser.add_argument("--size", type=int, nargs=2, default=(1920, 1080), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--text-tokens", type=int, default=66, help="around the picture (default: 66)")
    parser.add_argument("--repeats", type=int, default=11, help="counted requests of each kind (default: 11)")
    parser.add_argument("--uncounted", type=int, default=3, help="requests before these (default: 3)")
    args = parser.parse_args(argv)
    about = {"command": shlex.join(["python", "-m", "bench.gpu_serving.first_token", *(argv or sys.argv[1:])]),
             **describe_machine(), "gpu": describe_gpu(), "model": BuildFolder(args.build).manifest["config"]}
    for found in measure(args.url, args.build, tuple(args.size), args.text_tokens, args.repeats, args.uncounted):
        report = {**about, **found}
        with replacing(args.output) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    plot(report, args.output.with_suffix(".png"))
    for kind, each in found["parts"].items():
        print(f"{kind}: {found[kind]['first_token']['median']:6.1f} ms = "
              + " + ".join(f"{value:.1f} {name}" for name, value in each.items()))


if __name__ == "__main__":
    main()
