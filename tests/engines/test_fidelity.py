"""Engines against transformers for models of many shapes, and that the check itself finds what is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from client.cli import main
from engines.builder import build_engines
from engines.fidelity.check import check
from export.exporter import export
from tests.support.checkpoints import make_checkpoint
from tests.support.processor_folder import add_processor_files

ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
VARIANTS = {
    "default": {},
    "experts stored transposed": {"experts_transposed": True},
    "square experts, transposed": {"experts_transposed": True, "text": {"moe_intermediate_size": 32}},
    "experts as wide as the model": {"experts_transposed": True, "text": {"moe_intermediate_size": 64}},
    "tied embeddings": {"tie_word_embeddings": True, "shards": 3},
    "no DeepStack": {"vision": {"deepstack_visual_indexes": []}},
    "one DeepStack level": {"vision": {"deepstack_visual_indexes": [4]}},
    "five DeepStack levels": {"vision": {"deepstack_visual_indexes": [0, 1, 2, 3, 4]}},
    "other heads": {"text": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32,
                             "rope_parameters": {**ROPE, "mrope_section": [6, 5, 5]}},
                    "vision": {"num_heads": 2, "hidden_size": 80}},
    "dense layers": {"text": {"mlp_only_layers": [1], "decoder_sparse_step": 2}},
    "attention bias, four experts of sixteen": {"text": {"attention_bias": True, "num_experts": 16,
                                                         "num_experts_per_tok": 4}},
}


def build_of(checkpoint: Path, folder: Path) -> Path:
    export(checkpoint, folder)
    build_engines(folder)
    return folder


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_engines_agree_with_transformers(variant: dict, tmp_path: Path):
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint", seed=3, **variant))
    reference = checkpoint
    if variant.get("experts_transposed"):
        # The same weights in today's layout: the reference cannot tell the layouts of a square matrix apart.
        reference = make_checkpoint(tmp_path / "reference", seed=3, **{**variant, "experts_transposed": False})
        add_processor_files(reference)
    report = check(build_of(checkpoint, tmp_path / "build"), reference, "fp32")
    failed = [result for result in report["results"] if not result["passed"]]
    assert report["passed"] and not failed
    levels = {result["level"] for result in report["results"]}
    deepstack = variant.get("vision", {}).get("deepstack_visual_indexes", [1, 2, 3])
    assert sum("DeepStack level" in level for level in levels) == len(deepstack)
    assert any(level.startswith("canary") for level in levels) == bool(deepstack)


def test_another_checkpoint_fails_the_check(random_build: Path, tmp_path: Path):
    other = add_processor_files(make_checkpoint(tmp_path, seed=1))
    report = check(random_build, other, "fp32")
    assert not report["passed"]
    passed = [result for result in report["results"] if result["passed"] and not result["level"].startswith("canary")]
    assert passed == []


def test_engines_follow_a_checkpoint_whose_weights_alone_change(tmp_path: Path):
    build = tmp_path / "build"
    build_of(add_processor_files(make_checkpoint(tmp_path / "first", seed=1)), build)
    second = add_processor_files(make_checkpoint(tmp_path / "second", seed=2))
    assert check(build_of(second, build), second, "fp32")["passed"]


def test_a_model_that_ignores_deepstack_fails_only_the_canary(tmp_path: Path):
    checkpoint = add_processor_files(make_checkpoint(tmp_path / "checkpoint"))
    weights = load_file(checkpoint / "model.safetensors")
    for name in weights:
        if "deepstack_merger_list" in name and "linear_fc2" in name:
            weights[name] = np.zeros_like(weights[name])
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    report = check(build_of(checkpoint, tmp_path / "build"), checkpoint, "fp32")
    failed = {result["level"] for result in report["results"] if not result["passed"]}
    assert failed == {"canary: logits differ without DeepStack"}


def test_kept_results_of_the_reference_need_no_torch(random_build: Path, random_checkpoint: Path, tmp_path: Path):
    build = Path(shutil.copytree(random_build, tmp_path / "build"))
    arguments = ["check", str(build), "--checkpoint", str(random_checkpoint), "--expected", str(tmp_path / "expected")]
    assert main([*arguments, "--reference-only"]) == 0
    assert "fidelity" not in json.loads((build / "manifest.json").read_text())
    code = ("import sys; sys.modules.update(torch=None, transformers=None); from client.cli import main; "
            f"sys.exit(main({arguments!r}))")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    fidelity = json.loads((build / "manifest.json").read_text())["fidelity"]
    assert fidelity["passed"] and fidelity["reference"].startswith("transformers ")
