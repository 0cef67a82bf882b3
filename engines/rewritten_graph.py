"""A changed graph as a file, for as long as an engine is built from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from export.build_folder import TEMPORARY


@contextmanager
def saved_beside(source: Path, model: ir.Model) -> Iterator[Path]:
    """Save `model` next to the graph it was made from: weights are only found in the same folder."""
    graph = source.with_name(f"{TEMPORARY}{source.name}")
    try:
        ir.save(model, graph)
        yield graph
    finally:
        graph.unlink(missing_ok=True)
