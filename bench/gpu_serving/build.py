"""A build for a GPU with the shapes of Qwen3-VL-30B-A3B, made up in a minute: what serving it takes is measured on it.

    python -m bench.gpu_serving.build BUILD --vision-kernels LIBRARY --decoder-kernels LIBRARY

All 48 layers, 27 vision blocks and 151936 rows of the output projection. The tokenizer is that of models/tiny-shapes,
whose vocabulary is padded, as that of the published model is; padded tokens are never generated, nor does any end an
answer. The file of the decoder's weights has those of `--distinct` layers, which the others share: see
`bench.gpu_serving.decoder_engine`. Takes 7 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from transformers import Qwen3VLMoeConfig

from bench.gpu_serving.decoder_engine import write_repeated_decoder
from bench.gpu_serving.made_up_checkpoint import MadeUpCheckpoint
from bench.make_model import TEMPLATE
from bench.synthetic_checkpoint import config_30b_a3b, narrowed
from engines.builder import build_engines
from engines.onnxruntime.cuda_build import CudaBuildOptions
from export.build_folder import BuildFolder
from export.precision import MIXED, PRECISIONS, wide_precision
from export.vision_encoder_graph import vision_encoder_model
from export.weight_files import write_model
from qwen3vl.config import ModelConfig
from qwen3vl.images import ImageSettings
from qwen3vl.processor import PROCESSOR_FILES
from qwen3vl.tokenizer import Tokenizer

# Of a prepared image, as the published model's preprocessing has it.
PIXELS = {"shortest_edge": 65536, "longest_edge": 16777216}


def made_up_config(layers: int, vision_depth: int, *, small: bool = False) -> Qwen3VLMoeConfig:
    """The published shapes, or `narrowed` ones, with the special tokens of `TEMPLATE`."""
    tiny = json.loads((TEMPLATE / "config.json").read_text())
    config = config_30b_a3b(layers=layers, vision_depth=vision_depth)
    if small:
        narrowed(config)
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(config, name, tiny[name])
    return config


def write_processor(folder: Path, config: Qwen3VLMoeConfig) -> list[int]:
    """Write `processor/` for a configuration. Returns the tokens that are not to be generated: all but ASCII."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    for name in {*PROCESSOR_FILES} - {"config.json", "generation_config.json"}:
        if (TEMPLATE / name).is_file():
            shutil.copyfile(TEMPLATE / name, folder / name)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "size": PIXELS}, indent=2) + "\n")
    vocab_size = config.text_config.vocab_size
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [vocab_size - 1]}) + "\n")
    return [i for i, text in enumerate(Tokenizer.from_checkpoint(folder).token_bytes)
            if not (text and text.isascii() and text.decode().isprintable())]


def make_build(folder: Path, config: Qwen3VLMoeConfig, precision: str, options: CudaBuildOptions, distinct: int,
               *, vision: bool = True) -> None:
    """Write a build folder for the target `cuda` anew, without its ONNX files.

    Args:
        distinct: decoder layers with weights of their own.
        vision: whether to make the vision encoder's engine too.

    Raises:
        ArtifactError: a kernel library is missing or does not suit the configuration.
    """
    shutil.rmtree(folder, ignore_errors=True)
    hushed = write_processor(folder / "processor", config)
    checkpoint = MadeUpCheckpoint(folder / "processor", config, hushed)
    parsed = ModelConfig.from_checkpoint(folder / "processor")
    images = ImageSettings.from_checkpoint(folder / "processor")
    build = BuildFolder(folder)
    with build.locked():
        build.manifest.update(config=parsed.to_dict(), precision=precision,
                              source={"path": "made up", "fingerprint": checkpoint.fingerprint()})
        build.save()
        if vision:
            graph = vision_encoder_model(parsed.vision, checkpoint, image_mean=images.image_mean,
                                         image_std=images.image_std, dtype=PRECISIONS[wide_precision(precision)])
            write_model(build, "onnx/vision_encoder.onnx", *graph, {"checkpoint": checkpoint.fingerprint()})
    build_engines(folder, "cuda", ["vision_encoder"] if vision else [], cuda=options)
    shutil.rmtree(folder / "onnx", ignore_errors=True)
    write_repeated_decoder(folder / "engines/decoder", parsed, checkpoint, precision, options.decoder_kernels, distinct)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="the build folder; it is emptied first")
    parser.add_argument("--vision-kernels", type=Path, metavar="LIBRARY")
    parser.add_argument("--decoder-kernels", type=Path, metavar="LIBRARY")
    parser.add_argument("--precision", choices=(*PRECISIONS, *MIXED), default="bf16",
                        help="weights of 4 bits need --decoder-kernels (default: bf16)")
    parser.add_argument("--layers", type=int, default=48, help="of the decoder (default: 48)")
    parser.add_argument("--vision-depth", type=int, default=27, help="blocks of the vision encoder (default: 27)")
    parser.add_argument("--no-vision", action="store_true", help="make the decoder's engine alone")
    parser.add_argument("--small", action="store_true", help="narrow, to try it")
    parser.add_argument("--distinct", type=int, default=2, help="layers with weights of their own (default: 2)")
    args = parser.parse_args(argv)
    if args.precision in MIXED and args.decoder_kernels is None:
        parser.error(f"--precision {args.precision} needs --decoder-kernels")
    started = time.monotonic()
    make_build(args.build, made_up_config(args.layers, args.vision_depth, small=args.small), args.precision,
               CudaBuildOptions(args.vision_kernels, args.decoder_kernels), args.distinct, vision=not args.no_vision)
    print(f"{args.build}: {args.layers} layers in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
