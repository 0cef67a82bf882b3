"""What the programs here have in common: their options, the file they write and what it says of the run."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from pathlib import Path

import torch


def parser(description: str | None, output: str = "JSON file to write") -> argparse.ArgumentParser:
    """With `--kernels` and `--output`, which is said to be `output`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--kernels", type=Path, required=True, help="libdecoder_kernels.so")
    made.add_argument("--output", type=Path, required=True, help=output)
    return made


class Record:
    """The result, written anew with each entry; the first says what ran, when and where.

    Args:
        path: the JSON file.
        module: of the program, in this package.
        about: what else to say of the run.
    """

    def __init__(self, path: Path, module: str, **about: object):
        self.path, self.entries = path, {}
        self.add("about", {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "command": f"python -m bench.decoder_cuda.{module} " + " ".join(sys.argv[1:]),
            "gpu": torch.cuda.get_device_name(), "python": platform.python_version(), "torch": torch.__version__,
            "cuda": torch.version.cuda, **about})

    def add(self, name: str, entry: object) -> None:
        self.entries[name] = entry
        self.path.write_text(json.dumps(self.entries, indent=1) + "\n")
