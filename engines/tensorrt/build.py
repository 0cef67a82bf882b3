"""ONNX graph of the vision encoder to a TensorRT engine, through Polygraphy."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from engines.cuda_driver import Gpu
from engines.rewritten_graph import saved_beside
from engines.tensorrt.flavour import FLAVOURS, RTX, load_tensorrt, use_polygraphy
from engines.tensorrt.messages import activation_bytes, layer_report, message_log
from engines.tensorrt.profiles import MAX_FRAMES, Profile, derive_profiles, profile_table
from engines.tensorrt.progress import progress_monitor
from engines.tensorrt.record import ENGINE_FILE, LAYERS_FILE, EngineRecord, TensorInfo
from engines.tensorrt.rewrite import use_basic_operators
from export.build_folder import BuildFolder
from export.precision import PRECISIONS, wide_precision
from qwen3vl.config import ModelConfig, VisionConfig
from qwen3vl.errors import ArtifactError
from qwen3vl.images import ImageSettings
from qwen3vl.videos import VideoSettings

GRAPH = "vision_encoder"
# GeForce and professional cards of the Ampere, Ada Lovelace and Blackwell generations.
RTX_CAPABILITIES = ("8.6", "8.9", "12.0")
# Goes up when engines of the same graph come out differently.
RECIPE = 1


@dataclass(frozen=True)
class TensorRTOptions:
    """How to build the vision engine.

    Attributes:
        flavour: `tensorrt`, for the GPU of this machine, or `tensorrt_rtx`.
        compute_capabilities: GPUs to build for, such as "8.9"; only `tensorrt_rtx` builds for others than its own.
        max_image_pixels: area of the largest prepared image; by default what the checkpoint's preprocessing allows.
        max_frames: equal frames that one call may take.
    """

    flavour: str = "tensorrt"
    compute_capabilities: tuple[str, ...] = ()
    max_image_pixels: int | None = None
    max_frames: int = MAX_FRAMES

    def __post_init__(self) -> None:
        if self.flavour not in FLAVOURS:
            raise ArtifactError(f"flavour is {self.flavour!r}, expected one of {', '.join(FLAVOURS)}")
        for capability in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", capability):
                raise ArtifactError(f"compute capability is {capability!r}, expected a number such as 8.9")
        if self.compute_capabilities and self.flavour != RTX:
            raise ArtifactError(f"flavour {self.flavour} builds for the GPU of this machine only: leave "
                                f"--compute-capability out, or choose the flavour {RTX}")


def build_vision_engine(build: BuildFolder, options: TensorRTOptions) -> bool:
    """Make `engines/vision_encoder/` from `onnx/vision_encoder.onnx`; skip it if it is there already.

    Returns:
        Whether it was made now.

    Raises:
        ArtifactError: TensorRT is missing or refuses the graph, or there is no GPU to build for.
    """
    trt = load_tensorrt(options.flavour)
    config, precision = ModelConfig.from_dict(build.manifest["config"]), wide_precision(build.manifest["precision"])
    pixels = options.max_image_pixels or _largest_image(build.path / "processor")
    profiles = derive_profiles(config.vision, pixels, options.max_frames)
    capabilities = _target_capabilities(trt, options)
    key = {"graph": build.identity_of(f"onnx/{GRAPH}.onnx"), "flavour": options.flavour, "version": trt.__version__,
           "compute_capabilities": list(capabilities), "recipe": RECIPE,
           "profiles": [profile.shapes(config.vision) for profile in profiles]}
    cache = _timing_cache(build.path, trt, options.flavour, capabilities)

    def produce(folder: Path) -> None:
        started = time.monotonic()
        print(f"build engines/{GRAPH} with {options.flavour} {trt.__version__}, {precision}, for compute capability "
              f"{', '.join(capabilities)}\n{profile_table(profiles, config.vision.patch_size)}", file=sys.stderr)
        folder.mkdir()
        builder = _EngineBuilder(trt, options.flavour, config.vision, profiles, capabilities, cache)
        record = builder.build(build.path / f"onnx/{GRAPH}.onnx", precision, folder)
        record.save(folder)
        print(f"{profile_table(profiles, config.vision.patch_size, record.activation_bytes)}\n"
              f"{(folder / ENGINE_FILE).stat().st_size / 2**20:,.0f} MiB in {time.monotonic() - started:.1f} s",
              file=sys.stderr)

    made = build.artifact(f"engines/{GRAPH}", key, produce)
    build.manifest["tensorrt"] = EngineRecord.load(build.path / f"engines/{GRAPH}").to_dict()
    return made


class _EngineBuilder:
    def __init__(self, trt, flavour: str, vision: VisionConfig, profiles: Sequence[Profile],
                 capabilities: Sequence[str], cache: Path | None):
        self._trt, self._flavour, self._vision = trt, flavour, vision
        self._profiles, self._capabilities, self._cache = tuple(profiles), tuple(capabilities), cache
        self._log = message_log(trt)

    def build(self, graph: Path, precision: str, folder: Path) -> EngineRecord:
        """Write engine and layer report into `folder`."""
        from polygraphy.exception import PolygraphyException
        from polygraphy.logger import G_LOGGER

        use_polygraphy(self._flavour)
        monitor = progress_monitor(self._trt, f"build engines/{GRAPH}")
        try:
            with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
                builder, network, parser = self._network(graph, precision)
                plan = self._plan(builder, network, parser, monitor)
        except PolygraphyException as error:
            if monitor.cancelled:
                raise KeyboardInterrupt from None
            raise ArtifactError(self._refusal(f"cannot build the engine ({error})")) from error
        finally:
            monitor.close()
        (folder / ENGINE_FILE).write_bytes(memoryview(plan))
        (folder / LAYERS_FILE).write_text(layer_report(self._log.messages) + "\n")
        inputs, outputs = ({tensor.name: self._info(tensor) for tensor in tensors}
                           for tensors in _network_tensors(network))
        return EngineRecord(self._flavour, self._trt.__version__, precision, self._capabilities, self._profiles,
                            activation_bytes(self._log.messages), inputs, outputs)

    def _network(self, graph: Path, precision: str):
        """Builder, strongly typed network and parser; errors of the parser name the node."""
        trt = self._trt
        builder = trt.Builder(self._log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._log)
        with _suitable_graph(trt, graph, precision) as path:
            if not parser.parse_from_file(str(path)):
                refused = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
                raise ArtifactError(self._refusal(f"does not take {graph} ({refused})"))
        return builder, network, parser

    def _plan(self, builder, network, parser, monitor):
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
        from polygraphy.backend.trt import CreateConfig, EngineBytesFromNetwork
        from polygraphy.backend.trt import Profile as TrtProfile

        profiles = []
        for profile in self._profiles:
            profiles.append(TrtProfile())
            for name, (least, usual, most) in profile.shapes(self._vision).items():
                profiles[-1].add(name, min=least, opt=usual, max=most)
        common = {"profiles": profiles, "progress_monitor": monitor,
                  "profiling_verbosity": self._trt.ProfilingVerbosity.DETAILED}
        if self._flavour == RTX:
            targets = [tuple(map(int, capability.split("."))) for capability in self._capabilities]
            create = CreateConfigRTX(compute_capabilities=targets, **common)
        else:
            known = self._cache if self._cache and self._cache.exists() else None
            create = CreateConfig(load_timing_cache=known and str(known), **common)
        config = create(builder, network)
        config.clear_flag(self._trt.BuilderFlag.TF32)  # fp32 means fp32
        save = self._cache and str(self._cache)
        return EngineBytesFromNetwork((builder, network, parser), config, save_timing_cache=save)()

    def _info(self, tensor) -> TensorInfo:
        return TensorInfo(np.dtype(self._trt.nptype(tensor.dtype)).name, tuple(tensor.shape))

    def _refusal(self, what: str) -> str:
        details = f": {'; '.join(self._log.errors)}" if self._log.errors else ""
        return f"{self._flavour} {self._trt.__version__} {what}{details}"


@contextmanager
def _suitable_graph(trt, graph: Path, precision: str) -> Iterator[Path]:
    """The graph as this TensorRT takes it.

    With the standard operators, the engine has a fused attention or is refused. Where there is no such kernel (fp32)
    or no such operator (before 10.15), basic operators do it, and TensorRT fuses what it can.
    """
    if precision != "fp32" and hasattr(trt.INetworkDefinition, "add_rotary_embedding"):
        yield graph
        return
    model = ir.load(graph)
    use_basic_operators(model, PRECISIONS[precision])
    with saved_beside(graph, model) as rewritten:
        yield rewritten


def _network_tensors(network) -> tuple[list, list]:
    return ([network.get_input(index) for index in range(network.num_inputs)],
            [network.get_output(index) for index in range(network.num_outputs)])


def _largest_image(processor: Path) -> int:
    """Area of the largest frame that preparation gives: of an image, or of a video with one temporal patch."""
    image, video = ImageSettings.from_checkpoint(processor), VideoSettings.from_checkpoint(processor).image
    return max(image.max_pixels, video.max_pixels // video.temporal_patch_size)


def _target_capabilities(trt, options: TensorRTOptions) -> tuple[str, ...]:
    if options.flavour != RTX:
        return (Gpu().compute_capability,)
    targets = options.compute_capabilities or RTX_CAPABILITIES
    known = {name[2:-1] + "." + name[-1] for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    if unknown := [target for target in targets if target not in known]:
        raise ArtifactError(f"{options.flavour} {trt.__version__} builds for no compute capability "
                            f"{', '.join(unknown)}, only for {', '.join(sorted(known, key=float))}")
    return tuple(sorted(set(targets), key=float))


def _timing_cache(folder: Path, trt, flavour: str, capabilities: Sequence[str]) -> Path | None:
    """Where measured kernel times are kept; TensorRT for RTX measures none while it builds."""
    if flavour == RTX:
        return None
    return folder / f"timing-{flavour}-{trt.__version__}-sm{'-'.join(capabilities)}.cache"
