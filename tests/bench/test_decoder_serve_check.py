"""The check of the decoder on a GPU, gone through on a CPU; and that it says no to a decoder that is wrong."""

import json
import re
from pathlib import Path

import pytest
import torch

from bench.decoder_cuda.serve_check import main
from bench.decoder_cuda.serve_reference import Reference
from bench.make_model import TEMPLATE
from engines.fidelity.reference import Reference as Transformers
from engines.onnxruntime.cuda_cache import DeviceCache
from export.precision import quantisation_of
from qwen3vl.torch_model import TorchModel


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return [str(tmp_path), "--device", "cpu", "--output", str(tmp_path / "report.json")]


def test_everything_passes_on_a_cpu(arguments: list[str]):
    assert main(arguments) == 0
    report = json.loads(Path(arguments[-1]).read_text())
    assert report["precision"] == "fp32" and all(check["passed"] for check in report["checks"].values())
    assert {name.partition(":")[0] for name in report["checks"]} == {"export", "own operators", "kernels"}


def test_a_cache_that_loses_a_token_when_it_moves_fails(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys):
    """Logits are off then, and so are answers; the builds are not to blame."""
    move = DeviceCache.move
    monkeypatch.setattr(DeviceCache, "move", lambda self, source, target, length: move(self, source, target,
                                                                                       max(0, length - 1)))
    assert main(arguments) == 1
    passed = {name: check["passed"] for name, check in json.loads(Path(arguments[-1]).read_text())["checks"].items()}
    assert passed["kernels: build"] and not passed["kernels: whole prompts, steps without graphs"]
    assert "AssertionError: off by" in capsys.readouterr().err


def test_the_reference_of_weights_of_4_bits_has_those_that_transformers_has():
    measure, transformers = Reference(TEMPLATE, "int4-bf16", "cpu"), Transformers(TEMPLATE)
    transformers.round_weights(quantisation_of("int4-bf16"))
    expected = dict(transformers.model.named_parameters())
    unrounded = dict(TorchModel.from_checkpoint(TEMPLATE).checkpoint_parameters())
    rounded = set()
    for name, parameter in measure.exact.checkpoint_parameters():
        assert torch.equal(parameter, expected[name]), name
        if not torch.equal(parameter, unrounded[name]):
            rounded.add(re.sub(r".*layers\.\d+\.", "", name))
    assert {"self_attn.q_proj.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj", "lm_head.weight"} <= rounded
    assert measure.rounded.decoder.lm_head.weight.dtype is torch.bfloat16
