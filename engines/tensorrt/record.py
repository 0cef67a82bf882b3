"""`engines/vision_encoder/tensorrt.json`: what the TensorRT engine beside it needs and takes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.record_file import read_record
from engines.tensorrt.profiles import Profile, Range

RECORD_FILE = "tensorrt.json"
ENGINE_FILE = "engine.plan"
LAYERS_FILE = "layers.txt"
FORMAT = 1


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: its element type as numpy names it, and its shape, -1 where it is dynamic."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineRecord:
    """A TensorRT engine.

    Attributes:
        flavour: `tensorrt` or `tensorrt_rtx`.
        version: of that library; no other version reads the engine.
        precision: element type of weights and activations.
        compute_capabilities: GPUs that the engine runs on, such as "8.9".
        profiles: in the engine's order.
        activation_bytes: GPU memory that the largest call of each profile needs beside weights, inputs and outputs.
        inputs, outputs: by name.
    """

    flavour: str
    version: str
    precision: str
    compute_capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]
    activation_bytes: tuple[int, ...]
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]

    def to_dict(self) -> dict:
        return {"format": FORMAT, **asdict(self)}

    def save(self, folder: Path) -> None:
        (folder / RECORD_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> EngineRecord:
        """Read the record of an engine's folder.

        Raises:
            ArtifactError: there is none, or another version of this toolkit wrote it.
        """
        values = read_record(folder / RECORD_FILE, FORMAT, "`qwen3vl build --target tensorrt` on the build folder")
        tensors = {part: {name: TensorInfo(info["dtype"], tuple(info["shape"])) for name, info in values[part].items()}
                   for part in ("inputs", "outputs")}
        profiles = tuple(Profile(Range(**value["frames"]), Range(**value["patches"])) for value in values["profiles"])
        return cls(**{**values, **tensors, "profiles": profiles,
                      "compute_capabilities": tuple(values["compute_capabilities"]),
                      "activation_bytes": tuple(values["activation_bytes"])})
