"""The graph that finds the most likely tokens of a step, for engines whose decoder does not put them out itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from engines.onnxruntime.cuda_record import BEST, CANDIDATES, CANDIDATES_FOLDER, IDS
from engines.onnxruntime.session import ENGINE_FILE
from export.graph import IR_VERSION, OPSET, value


def write_candidates(folder: Path, vocab_size: int) -> None:
    """Write it into a decoder's folder: `logits` float32 [N, V] to the K largest, `best` [N, K], the largest first, and
    their `ids` int64 [N, K]."""
    size = min(CANDIDATES, vocab_size)
    logits = value("logits", ir.DataType.FLOAT, ["sequences", vocab_size])
    tensor = ir.Tensor(np.array([size], np.int64), name="count")
    count = ir.Value(name="count", shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    outputs = [value(name, dtype, ["sequences", size])
               for name, dtype in ((BEST, ir.DataType.FLOAT), (IDS, ir.DataType.INT64))]
    node = ir.node("TopK", [logits, count], {"axis": -1, "largest": 1, "sorted": 1}, outputs=outputs)
    graph = ir.Graph([logits], outputs, nodes=[node], name="candidates", opset_imports={"": OPSET},
                     initializers=[count])
    (folder / CANDIDATES_FOLDER).mkdir()
    ir.save(ir.Model(graph, ir_version=IR_VERSION), folder / CANDIDATES_FOLDER / ENGINE_FILE)
