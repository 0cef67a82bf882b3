"""What every vision engine has in common: frames of equal size become one batch, whichever request they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from engines.description import EngineDescription
from engines.visual_rows import VisualRows, join_rows, split_rows
from qwen3vl.errors import InvalidRequest
from qwen3vl.positions import interpolation, vision_positions

# Patches encoded in one call at most: bounds the activations' memory (one 2048x2048 image has 16384). A frame that has
# more is a call of its own.
CALL_PATCHES = 16384

Grid = tuple[int, int]


class FrameEncoder(ABC):
    """Encodes prepared patches to visual rows; a subclass runs the engine.

    Args:
        engine_dir: the `engines/` folder of a build.
    """

    def __init__(self, engine_dir: Path):
        self.config = EngineDescription.load(engine_dir).config

    @property
    @abstractmethod
    def loaded(self) -> bool:
        """Whether the engine is in memory: it is from the first image on."""

    @abstractmethod
    def frames_per_call(self, patches: int) -> int:
        """How many frames of that many patches one call takes."""

    @abstractmethod
    def encode_frames(self, grid: Grid, patches: np.ndarray) -> VisualRows:
        """Encode frames of one size in one call.

        Args:
            grid: (rows, columns) in patches.
            patches: uint8 [F, rows * columns, patch_dim], F at most `frames_per_call`.

        Returns:
            Visual rows, float32 [F * (1 + D) * tokens, hidden].
        """

    def encode(self, patches: np.ndarray, grids: np.ndarray) -> VisualRows:
        """Encode one request.

        Args:
            patches: uint8 [sum(t * h * w), patch_dim], images and videos one after the other.
            grids: int [n, 3], the (t, h, w) of each.

        Returns:
            Visual rows, float32 [(1 + D) * N, hidden]; the rows of one visual token are adjacent. An engine that
            leaves them on its GPU gives `DeviceRows`, unless there are none.

        Raises:
            InvalidRequest: patches and grids do not fit each other, the model or the engine.
        """
        return self.encode_batch([(patches, grids)])[0]

    def encode_batch(self, requests: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[VisualRows]:
        """Encode several requests, each as in `encode`; equal frames of all of them share calls."""
        for patches, grids in requests:
            self.validate(patches, grids)
        frames = [(owner, grid, frame) for owner, request in enumerate(requests) for grid, frame in _frames(*request)]
        groups: dict[Grid, list[int]] = {}
        for index, (_, grid, _) in enumerate(frames):
            groups.setdefault(grid, []).append(index)
        rows: dict[int, VisualRows] = {}
        for (h, w), members in groups.items():
            step = self.frames_per_call(h * w)
            for part in (members[start : start + step] for start in range(0, len(members), step)):
                encoded = self.encode_frames((h, w), _stacked([frames[index][2] for index in part]))
                rows.update(zip(part, split_rows(encoded, len(part)), strict=True))
        by_request = [[rows[i] for i, frame in enumerate(frames) if frame[0] == owner]
                      for owner in range(len(requests))]
        return [join_rows(parts, self.config.text.hidden_size) for parts in by_request]

    def validate(self, patches: np.ndarray, grids: np.ndarray) -> None:
        """Check that patches and grids fit each other, the model and the engine.

        Raises:
            InvalidRequest: they do not.
        """
        vision, merge = self.config.vision, self.config.vision.spatial_merge_size
        if patches.dtype != np.uint8 or patches.ndim != 2 or patches.shape[1] != vision.patch_dim:
            raise InvalidRequest(f"patches are {patches.dtype} {list(patches.shape)}, "
                                 f"expected uint8 [n, {vision.patch_dim}]")
        if grids.ndim != 2 or grids.shape[1] != 3 or (grids < 1).any() or (grids[:, 1:] % merge).any():
            raise InvalidRequest(f"grids are {grids.tolist()}, expected rows of (frames, rows, columns), all above 0, "
                                 f"rows and columns multiples of {merge}")
        if (total := int(np.prod(grids, axis=1, dtype=np.int64).sum())) != len(patches):
            raise InvalidRequest(f"grids {grids.tolist()} cover {total} patches, but {len(patches)} were given")

    def grid_inputs(self, grid: Grid) -> dict[str, np.ndarray]:
        """The engine's inputs that depend on the grid alone, by name."""
        vision = self.config.vision
        indices, weights = interpolation(*grid, vision.grid_side, vision.spatial_merge_size)
        return {"patch_positions": vision_positions(*grid, vision.spatial_merge_size),
                "interp_indices": indices, "interp_weights": weights}


def _stacked(frames: list[np.ndarray]) -> np.ndarray:
    """[F, ...]; one alone, which may be of many megabytes, is not copied."""
    return frames[0][None] if len(frames) == 1 else np.stack(frames)


def _frames(patches: np.ndarray, grids: np.ndarray) -> Iterator[tuple[Grid, np.ndarray]]:
    """(h, w) and patches uint8 [h * w, patch_dim] of each frame."""
    start = 0
    for t, h, w in grids.tolist():
        for _ in range(t):
            yield (h, w), patches[start : start + h * w]
            start += h * w
