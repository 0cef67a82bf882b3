"""What is asked of an encode server, and what both sides know of rows before any have moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qwen3vl.errors import ArtifactError

# Names as Triton has them. numpy has no bfloat16: its bits travel, and are returned, as uint16.
DTYPES: dict[str, np.dtype] = {"FP32": np.dtype(np.float32), "FP16": np.dtype(np.float16), "BF16": np.dtype(np.uint16)}

Kind = Literal["image", "video"]
Grid = tuple[int, int, int]


def visual_tokens(grid: Grid, merge: int) -> int:
    """Visual tokens of an image or video of (t, h, w) patches: t * h * w / merge^2."""
    t, h, w = grid
    return t * h * w // merge**2


@dataclass(frozen=True)
class EncodeJob:
    """One image or video to be encoded.

    Attributes:
        request_id: of the client's request, for logs.
        image_hash: 32 bytes that stand for the media and how it is prepared.
        media: the encoded file, as the client sent it.
        kind: what the file is.
        grid: (t, h, w) in patches, from the preparation on the language side.
    """

    request_id: str
    image_hash: bytes
    media: bytes
    kind: Kind
    grid: Grid


@dataclass(frozen=True)
class RowsDescription:
    """The rows of a deployment; both sides must have the same.

    Attributes:
        hidden: width of a row.
        levels: DeepStack levels D; a visual token has 1 + D rows.
        merge: side of the square of patches that one visual token stands for.
        dtype: a key of `DTYPES`.
        engine: stands for the vision engine that makes the rows: its hash.
    """

    hidden: int
    levels: int
    merge: int
    dtype: str
    engine: str

    def __post_init__(self) -> None:
        for name, least in (("hidden", 1), ("levels", 0), ("merge", 1)):
            if getattr(self, name) < least:
                raise ArtifactError(f"{name} of visual rows is {getattr(self, name)}, expected at least {least}")
        if self.dtype not in DTYPES:
            raise ArtifactError(f"dtype of visual rows is {self.dtype!r}, expected one of {', '.join(DTYPES)}")

    @property
    def rows_per_token(self) -> int:
        """1 + D."""
        return 1 + self.levels

    @property
    def numpy_dtype(self) -> np.dtype:
        return DTYPES[self.dtype]

    @property
    def token_bytes(self) -> int:
        """Bytes of all rows of one visual token, which never travel apart."""
        return self.rows_per_token * self.hidden * self.numpy_dtype.itemsize

    def tokens(self, grid: Grid) -> int:
        """Visual tokens of a grid."""
        return visual_tokens(grid, self.merge)
