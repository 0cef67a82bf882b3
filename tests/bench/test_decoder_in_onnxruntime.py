"""The comparison of the decoder's operators with the exported graph, on a CPU: there they are ONNX functions."""

import json
from pathlib import Path

import pytest

from bench.decoder_cuda import in_onnxruntime


def test_compares_and_times(random_build: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    in_onnxruntime.main([str(random_build), "--device", "cpu", "--batches", "1", "3", "--past", "20", "--output",
                         str(output)])
    result = json.loads(output.read_text())
    assert result["compared"]["relative_error"] < 1e-5 and result["compared"]["same_best_token"] == 1
    sides = ("exported", "operators")
    assert set(result["step_ms"]) == {f"{side}, batch {batch}" for side in sides for batch in (1, 3)}
    assert min(result["step_ms"].values()) > 0


def test_wrong_logits_are_an_error(random_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite = in_onnxruntime.use_decoder_kernels

    def wrong_scale(model) -> None:
        rewrite(model)
        node = next(node for node in model.graph if node.op_type == "CachedAttention")
        node.attributes["scale"] = in_onnxruntime.ir.AttrFloat32("scale", 0.7)

    monkeypatch.setattr(in_onnxruntime, "use_decoder_kernels", wrong_scale)
    with pytest.raises(SystemExit, match="not those of the exported graph"):
        in_onnxruntime.main([str(random_build), "--device", "cpu", "--batches", "--output", str(tmp_path / "out.json")])
