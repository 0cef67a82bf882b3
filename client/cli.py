"""The command line: `qwen3vl COMMAND ...`. Commands are loaded when they are used: each brings in what it needs."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# Command, of one or two words -> its module, with HELP, add_arguments(parser) and run(args) -> exit code; and what it
# says in the overview.
COMMANDS = {
    "export": ("export.export_command", "export a checkpoint to ONNX graphs or a TensorRT-LLM checkpoint"),
    "plan": ("export.plan_command", "show the GPU memory that a deployment needs"),
    "build": ("engines.build_command", "make optimised engines from exported graphs"),
    "compose": ("triton_repo.compose_command", "write the Triton model repository of a build"),
    "repo": ("triton_repo.repo_command", "check a model repository without a server"),
    "serve": ("triton_repo.serve_command", "serve a build with Triton Inference Server"),
    "demo": ("triton_repo.demo_command", "serve a build, ask about a sample picture, stop"),
    "ask": ("client.ask_command", "ask a server about text, images and videos"),
    "status": ("client.status_command", "show a server's models, slots and statistics"),
    "check": ("engines.check_command", "compare artifacts with the reference implementation"),
    "bench": ("bench.bench_command", "measure latency and throughput"),
    "verify": ("bench.verification.command", "verify a target on this machine, in one report"),
    "bench serve": ("bench.serve.command", "measure a server under load"),
}
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Its exit code: 0 for success, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name not in COMMANDS:
        print(f"qwen3vl: there is no command {name!r}\n\n{overview()}", file=sys.stderr)
        return 2
    from qwen3vl.errors import Qwen3VLError

    try:
        command = importlib.import_module(COMMANDS[name][0])
        parser = argparse.ArgumentParser(prog=f"qwen3vl {name}", description=command.HELP)
        command.add_arguments(parser)
        return command.run(parser.parse_args(rest))
    except Qwen3VLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(["usage: qwen3vl COMMAND ...", "", *lines, "", "`qwen3vl COMMAND --help` says more about one."])


if __name__ == "__main__":
    sys.exit(main())
