"""Peak memory of exporting a checkpoint much larger than the memory it is given.

    python -m bench.export_memory --layers 8 --limit-mib 1024

writes a checkpoint of Qwen3-VL-30B-A3B's shapes (all 27 vision blocks, fewer decoder layers; zeros that take no disk
space), exports it in a process whose private memory is limited, and records sizes, time and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.environment import describe_machine
from bench.synthetic_checkpoint import config_30b_a3b, write_checkpoint

MIB = 1024 * 1024


def measure(layers: int, limit_mib: int, processor: Path, scratch: Path) -> dict:
    checkpoint, output = scratch / "checkpoint", scratch / "build"
    size = write_checkpoint(checkpoint, config_30b_a3b(layers=layers))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json",
                 "video_preprocessor_config.json", "generation_config.json"):
        shutil.copy(processor / name, checkpoint)
    limit = limit_mib * MIB
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "client.cli", "export", str(checkpoint), "-o", str(output)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))
    while process.poll() is None:
        peak = max(peak, _anonymous_bytes(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the export failed with exit code {process.returncode}")
    written = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return {"checkpoint_bytes": size, "limit_bytes": limit, "peak_private_bytes": peak, "written_bytes": written,
            "seconds": round(time.monotonic() - started, 1), "decoder_layers": layers}


def _anonymous_bytes(pid: int) -> int:
    """Private memory of a process; the mapped checkpoint is not part of it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--limit-mib", type=int, default=1024)
    parser.add_argument("--processor", type=Path, default=Path("models/tiny-shapes"), help="tokenizer and settings")
    parser.add_argument("--scratch", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/export_memory.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        result = measure(args.layers, args.limit_mib, args.processor, Path(scratch))
    report = {"command": f"python -m bench.export_memory --layers {args.layers} --limit-mib {args.limit_mib}",
              **describe_machine(), **result}
    args.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{result['checkpoint_bytes'] / 1e9:.1f} GB exported to {result['written_bytes'] / 1e9:.1f} GB in "
          f"{result['seconds']:.0f} s with {result['peak_private_bytes'] / 1e6:.0f} MB of private memory at most "
          f"(limit {result['limit_bytes'] / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
