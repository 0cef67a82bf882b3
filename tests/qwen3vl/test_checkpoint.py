"""Tensors are read as safetensors reads them; broken checkpoints get errors that say what is wrong."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLMoeForConditionalGeneration

from qwen3vl.checkpoint import Checkpoint
from qwen3vl.errors import CheckpointError
from tests.support.checkpoints import make_checkpoint, make_config

GATE_UP = "model.language_model.layers.1.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("single"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("sharded"), dtype=torch.bfloat16, shards=3)


@pytest.fixture
def copy(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "copy")


def same(ours, theirs):
    """Whether a tensor of ours has the bits of one of torch's."""
    return ours.tobytes() == theirs.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_every_tensor(kind, request):
    folder = request.getfixturevalue(kind)
    expected = {}
    for file in folder.glob("*.safetensors"):
        expected |= load_file(file)
    with Checkpoint.open(folder) as checkpoint:
        assert sorted(checkpoint.names()) == sorted(expected)
        for name, tensor in expected.items():
            assert name in checkpoint
            assert checkpoint.shape(name) == tuple(tensor.shape)
            assert checkpoint.dtype(name) == ml_dtypes.bfloat16
            array = checkpoint.read(name)
            assert (array.shape, array.dtype) == (tuple(tensor.shape), ml_dtypes.bfloat16)
            assert same(array, tensor)


def test_every_type(tmp_path):
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool)}
    tensors |= {"scalar": torch.tensor(7.0), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    with Checkpoint.open(tmp_path) as checkpoint:
        for name, tensor in tensors.items():
            assert checkpoint.read(name).shape == tuple(tensor.shape)
            assert same(checkpoint.read(name), tensor), name
        assert float(checkpoint.read("scalar")) == 7.0


def test_names_are_those_that_transformers_writes(tmp_path):
    config = make_config()
    Qwen3VLMoeForConditionalGeneration(config).save_pretrained(tmp_path)
    with Checkpoint.open(tmp_path) as checkpoint:
        names = checkpoint.names()
        assert checkpoint.shape(GATE_UP) in ((8, 80, 64), (8, 64, 80))
    assert all(re.match(r"model\.visual\.|model\.language_model\.|lm_head\.weight$", name) for name in names)
    assert {"model.visual.patch_embed.proj.weight", "model.language_model.embed_tokens.weight", "lm_head.weight",
            "model.visual.deepstack_merger_list.2.linear_fc2.bias"} <= set(names)


def test_tensors_are_read_only_views_that_outlive_the_checkpoint(single):
    with Checkpoint.open(single) as checkpoint:
        array = checkpoint.read(GATE_UP)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0
    assert np.isfinite(array.astype(np.float32)).all()


def test_slices(single):
    with Checkpoint.open(single) as checkpoint:
        whole = checkpoint.read(GATE_UP)
        for index in range(len(whole)):
            np.testing.assert_array_equal(checkpoint.read_slice(GATE_UP, index), whole[index])
        for index in (-1, 8):
            with pytest.raises(CheckpointError, match=f"no part {index} of its first axis"):
                checkpoint.read_slice(GATE_UP, index)


def test_memory_stays_bounded(tmp_path):
    """Reading 128 MiB in tensors of 8 MiB takes the memory of one of them, not of all."""
    weight_map = {}
    for k in range(4):
        tensors = {f"t{k}.{i}": torch.full((2, 1024, 1024), float(i)) for i in range(4)}
        save_file(tensors, tmp_path / f"{k}.safetensors")
        weight_map |= dict.fromkeys(tensors, f"{k}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    program = """
import resource, sys
from qwen3vl.checkpoint import Checkpoint
with Checkpoint.open(sys.argv[1]) as checkpoint:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(float(checkpoint.read(name).sum()) for name in checkpoint.names()) == 4 * 6 * 2 * 2**20
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 24 * 1024  # KiB


# -- fingerprint


def fingerprint(folder):
    with Checkpoint.open(folder) as checkpoint:
        return checkpoint.fingerprint()


def test_fingerprints_ignore_place_and_shards(sharded, single, copy):
    os.utime(copy / "model-00001-of-00003.safetensors", (0, 0))
    assert fingerprint(copy) == fingerprint(sharded) == fingerprint(single)


def test_fingerprints_see_every_byte_of_small_files(copy):
    before = fingerprint(copy)
    file = copy / "model-00002-of-00003.safetensors"
    content = bytearray(file.read_bytes())
    for place in (-1, len(content) // 2, len(content) * 3 // 4):
        content[place] ^= 1
        file.write_bytes(content)
        after = fingerprint(copy)
        assert after != before
        before = after


def test_fingerprints_see_names_shapes_and_configuration(tmp_path):
    seen = set()
    for tensors in ({"a": torch.zeros(4, 2)}, {"b": torch.zeros(4, 2)}, {"a": torch.zeros(2, 4)},
                    {"a": torch.zeros(4, 2, dtype=torch.int32)}):
        save_file(tensors, tmp_path / "model.safetensors")
        seen.add(fingerprint(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 5


def test_fingerprints_of_large_files_sample_every_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr("qwen3vl.checkpoint.HASH_WHOLE_BYTES", 2**20)
    count = 2**18 + 1
    tensors = {"large": torch.zeros(count), "small": torch.zeros(10)}
    save_file(tensors, tmp_path / "model.safetensors")
    seen = [fingerprint(tmp_path)]
    for change in ({"large": torch.full((count,), 1e-30)}, {"small": torch.tensor([0.0] * 9 + [1.0])}):
        save_file({**tensors, **change}, tmp_path / "model.safetensors")
        seen.append(fingerprint(tmp_path))
    for place in (0, -1):
        tensors["large"][place] = 1
        save_file(tensors, tmp_path / "model.safetensors")
        seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == len(seen)


# -- broken checkpoints


def failing(folder, message):
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


def test_absent_tensors(single):
    with Checkpoint.open(single) as checkpoint:
        for method in (checkpoint.read, checkpoint.shape, checkpoint.dtype):
            with pytest.raises(CheckpointError, match=f"no tensor {GATE_UP}s; similar ones: .*{GATE_UP}"):
                method(GATE_UP + "s")
        with pytest.raises(CheckpointError, match="similar ones: none"):
            checkpoint.read("?")


def test_no_weights(tmp_path):
    failing(tmp_path, "neither model.safetensors nor model.safetensors.index.json")


def test_missing_shards(copy):
    (copy / "model-00002-of-00003.safetensors").unlink()
    failing(copy, "lacks 1 of the 3 shards .*: model-00002-of-00003.safetensors; download")


@pytest.mark.parametrize("length", [-1, -1000, 100, 8, 3, 0])
def test_truncated_shards(copy, length):
    file = copy / "model-00003-of-00003.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:length])
    failing(copy, "model-00003-of-00003.safetensors .*(truncated|describes)")


def test_trailing_bytes(copy):
    with (copy / "model-00001-of-00003.safetensors").open("ab") as file:
        file.write(b"\0" * 16)
    failing(copy, "model-00001-of-00003.safetensors has .* bytes, but its header describes .*: it is damaged")


def change_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_index_and_shards_that_do_not_fit(copy):
    change_index(copy, lambda index: index["weight_map"].update({"new.weight": "model-00001-of-00003.safetensors"}))
    failing(copy, r"model-00001-of-00003.safetensors has no tensor new.weight, which .* \(1 such tensors\)")


def test_an_index_that_names_files_elsewhere(copy):
    change_index(copy, lambda index: index["weight_map"].update({"x": "../copy/model-00001-of-00003.safetensors"}))
    failing(copy, r"lacks 1 of the 4 shards .*\.\./copy")


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "{"])
def test_broken_index(copy, content):
    (copy / "model.safetensors.index.json").write_text(content)
    failing(copy, "model.safetensors.index.json")


def write(folder, header, body=b"\0" * 16):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


@pytest.mark.parametrize(("header", "message"), [
    (b"{", "broken header"), (b"[]", "broken header"), (b"\xff\xff", "broken header"), ({"a": 3}, "broken header"),
    ({"a": {"dtype": "F32", "shape": [4]}}, "broken header .*data_offsets"),
    ({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 16]}}, "broken header"),
    ({"a": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}}, "a has dtype F8_E4M3, supported are F64"),
    ({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}, r"shape \[5\] of F32, that is 20 bytes, but"),
    ({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, -16]}}, "a has shape"),
    ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, "a has shape"),
    ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}}, "it is truncated"),
])
def test_broken_headers(tmp_path, header, message):
    write(tmp_path, header)
    failing(tmp_path, message)


def test_a_header_length_that_is_absurd(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    failing(tmp_path, "not a safetensors file")
