"""`qwen3vl check`: compare a build's engines with the reference implementation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from engines.description import EngineDescription
from engines.trtllm.record import RECORD_FILE
from export.build_folder import BuildFolder
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.errors import ArtifactError

HELP = "compare engines with transformers, level by level"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("build", type=Path, help="a build folder with engines")
    parser.add_argument("--checkpoint", type=Path, help="the checkpoint (default: where the build was exported from)")
    parser.add_argument("--expected", type=Path, metavar="FOLDER",
                        help="keep what the reference says there, and use it where it is there already: then neither "
                             "torch nor transformers is needed")
    parser.add_argument("--logits", type=Path, metavar="FILE", help="write the engine's logits of each prompt (npz)")
    parser.add_argument("--reference-only", action="store_true", help="only ask the reference; engines are not needed")
    parser.add_argument("--force", action="store_true", help="check again although nothing has changed")


def run(args: argparse.Namespace) -> int:
    build = BuildFolder(args.build)
    checkpoint = args.checkpoint or Path(build.manifest["source"]["path"])
    with Checkpoint.open(checkpoint) as opened:
        if (found := opened.fingerprint()) != build.manifest["source"]["fingerprint"]:
            raise ArtifactError(f"{checkpoint} (fingerprint {found}) is not what {args.build} was exported from: pass "
                                "the right one with --checkpoint, or export again")
    expected = args.expected and args.expected / found[:12]
    if args.reference_only:
        from engines.fidelity.check import reference_results

        reference_results(args.build, checkpoint, build.manifest["precision"], expected)
        return 0
    engines = {name: build.identity_of(artifact) for name, artifact in _artifacts(args.build / "engines").items()}
    recorded = build.manifest.get("fidelity", {})
    if not args.force and recorded.get("passed") and recorded.get("engines") == engines:
        print(f"{args.build} agrees with {recorded['reference']} (checked before)", file=sys.stderr)
        return 0
    from engines.fidelity.check import check  # torch and transformers are needed from here on, as a rule

    with build.locked():
        report = {"engines": engines, **check(args.build, checkpoint, build.manifest["precision"],
                                              expected, args.logits)}
        build.manifest["fidelity"] = report
        build.save()
    failed = [result for result in report["results"] if not result["passed"]]
    print(f"{len(report['results']) - len(failed)} of {len(report['results'])} comparisons agree with "
          f"{report['reference']}", file=sys.stderr)
    return 1 if failed else 0


def _artifacts(engine_dir: Path) -> dict[str, str]:
    """Engine -> what stands for it in the manifest: its folder, or the record that is written last."""
    folder = EngineDescription.load(engine_dir).folder("decoder")
    record = f"/{RECORD_FILE}" if (engine_dir / folder / RECORD_FILE).is_file() else ""
    return {"vision_encoder": "engines/vision_encoder", "decoder": f"engines/{folder}{record}"}
