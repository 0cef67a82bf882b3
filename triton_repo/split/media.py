"""Images and videos on a language server: its preprocess passes them on as they came, with what it knows of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qwen3vl.processor import Prompt
from qwen3vl.visual_files import VisualSettings
from triton_repo.build_paths import BuildPaths
from triton_repo.preprocess import Preprocessor
from triton_repo.split.pairing import preparation_hash

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Media:
    """One image or video of a request.

    Attributes:
        name: its place among the request's, for error messages: "images[0]".
        kind: "image" or "video".
        grid: (t, h, w) in patches.
        hash: SHA-256 of the file, its kind and how it is prepared.
        data: the encoded file.
    """

    name: str
    kind: str
    grid: Grid
    hash: bytes
    data: bytes


class MediaPreprocessor(Preprocessor):
    """Prepares requests but for their pixels, which is left to encode servers."""

    def __init__(self, build: BuildPaths) -> None:
        super().__init__(build)
        self._preparation = preparation_hash(VisualSettings.from_checkpoint(build.processor))

    def visual_tensors(self, prompt: Prompt) -> dict[str, np.ndarray]:
        """The tensors of `repository.MEDIA`."""
        return media_tensors([
            Media(part.name, part.file.kind, part.file.grid,
                  media_hash(part.file.kind, part.file.data, self._preparation), part.file.data)
            for part in prompt.files])


def media_hash(kind: str, data: bytes, preparation: str) -> bytes:
    """Equal for what gives equal patches; 32 bytes."""
    digest = hashlib.sha256(f"{kind} {preparation} ".encode())
    digest.update(data)
    return digest.digest()


def media_tensors(media: Sequence[Media]) -> dict[str, np.ndarray]:
    data, info = np.empty(len(media), object), np.empty(len(media), object)
    data[:] = [item.data for item in media]
    info[:] = [json.dumps([item.name, item.kind, item.grid, item.hash.hex()]).encode() for item in media]
    return {"media": data, "media_info": info}


def media_of(tensors: Mapping[str, np.ndarray]) -> list[Media]:
    """Read what `media_tensors` wrote."""
    found = []
    for info, data in zip(tensors["media_info"].tolist(), tensors["media"].tolist(), strict=True):
        name, kind, grid, digest = json.loads(info)
        found.append(Media(name, kind, tuple(grid), bytes.fromhex(digest), data))
    return found
