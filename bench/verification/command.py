"""`qwen3vl verify`: build, compare and load-test on this machine, in one report."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from bench.verification.machine import describe
from bench.verification.plan import BUNDLED, Settings, fingerprints, make_plan
from bench.verification.report import JSON_FILE, MARKDOWN_FILE, write_report
from bench.verification.runner import Runner
from export.trtllm.parallel import Parallelism
from qwen3vl.errors import ArtifactError

HELP = "verify a target on this machine, from checkpoint to load test, in one report"
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Settings("trtllm", Path())
    parser.epilog = ("Steps that passed are not run again. Exit codes: 0 everything passed, 1 something failed or "
                     "could not be run, 130 interrupted.")
    parser.add_argument("checkpoint", type=Path, nargs="*", default=[BUNDLED],
                        help="checkpoints to verify with (default: the bundled one)")
    parser.add_argument("--target", choices=("trtllm", "cpu"), default="trtllm",
                        help="what to verify; cpu rehearses it without a GPU (default: trtllm)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for builds, logs and the report")
    parser.add_argument("--reference-python", default=defaults.reference_python, metavar="PYTHON",
                        help="a Python with torch and transformers, for the reference (default: this one)")
    parser.add_argument("--tensorrt-root", default=defaults.tensorrt_root, metavar="FOLDER",
                        help=f"TensorRT with its headers, for the plugin (default: {defaults.tensorrt_root})")
    parser.add_argument("--no-plugin", dest="plugin", action="store_false",
                        help="leave the DeepstackAdd plugin out: engines of TensorRT's own operations only")
    for name in ("tp", "pp", "ep"):
        parser.add_argument(f"--{name}", type=int, default=1, help="as for `qwen3vl export` (default: 1)")
    parser.add_argument("--max-length", type=int, default=defaults.max_length,
                        help=f"longest sequence of the engines (default: {defaults.max_length})")
    parser.add_argument("--force", action="store_true", help="run every step again")


def run(args: argparse.Namespace) -> int:
    output = args.output.absolute()
    checkpoints = _named([path.absolute() for path in args.checkpoint])
    settings = Settings(args.target, output, args.reference_python, args.tensorrt_root,
                        Parallelism(args.tp, args.pp, args.ep), args.max_length, args.plugin)
    steps = make_plan(checkpoints, settings)
    runner = Runner(output, {"checkpoints": fingerprints(checkpoints)}, args.force)
    interrupted = False
    try:
        runner.run(steps)
    except KeyboardInterrupt:
        interrupted = True
    passed = write_report(output, "qwen3vl " + shlex.join(["verify", *sys.argv[2:]]), args.target, describe(),
                          list(runner.outcomes.values()))
    print(f"{'passed' if passed and not interrupted else 'FAILED'}: {output / MARKDOWN_FILE} and {JSON_FILE} are "
          "written", flush=True)
    if interrupted:
        return INTERRUPTED
    return 0 if passed else 1


def _named(paths: list[Path]) -> dict[str, Path]:
    names = {path.name: path for path in paths}
    if len(names) < len(paths):
        raise ArtifactError(f"checkpoints {', '.join(map(str, paths))} have the same folder name, by which the report "
                            "calls them: rename one")
    for path in paths:
        if not (path / "config.json").is_file():
            raise ArtifactError(f"{path / 'config.json'} does not exist: give the folder of a Hugging Face checkpoint")
    return names
