"""`qwen3vl demo`: serve a build, ask one question about a picture, shut down."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from qwen3vl.errors import ArtifactError
from triton_repo.endpoints import Endpoints
from triton_repo.serve_command import LOG_FILE
from triton_repo.server import TritonServer

HELP = "serve a build, ask a question about a picture, shut down"
SAMPLES = Path(__file__).parent.parent / "models/tiny-shapes/samples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", type=Path, help="a build folder with a model repository, written by `qwen3vl compose`")
    parser.add_argument("--image", type=Path, default=SAMPLES / "three_shapes.png", help="default: a sample picture")
    parser.add_argument("--question", default="What is in the picture?", help="default: %(default)s")
    parser.add_argument("--server", help="the tritonserver to run (default: as `qwen3vl serve`)")


def run(args: argparse.Namespace) -> int:
    if not args.image.is_file():
        raise ArtifactError(f"{args.image} does not exist: give a picture with --image")
    free_ports = Endpoints(http=0, grpc=0, metrics=0)
    with TritonServer(args.build, args.server, free_ports, args.build / LOG_FILE) as server:
        server.wait_ready(600, lambda line: print(line, file=sys.stderr, flush=True))
        url = f"{server.endpoints.local_host}:{server.endpoints.grpc}"
        question = ["ask", args.question, "--image", str(args.image), "--url", url]
        print(f"$ qwen3vl ask {args.question!r} --image {args.image} --url {url}", file=sys.stderr, flush=True)
        return subprocess.run([sys.executable, "-m", "client.cli", *question], check=False).returncode
