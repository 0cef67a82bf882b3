"""Engines that leave visual rows in a device's memory and take them there, and the driver's own memory.

The device is the host or an emulated GPU (`tests.support.emulated_gpu`), which shares memory with other processes as
CUDA does, but does everything at once: nothing here shows what a missing wait would do.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engines import cuda_driver
from engines.batching.batcher import Batcher
from engines.batching.request import GenerationRequest
from engines.cuda_driver import Gpu
from engines.cuda_sharing import sharing_problem
from engines.description import EngineDescription
from engines.onnxruntime.cuda_decoder import CudaDecoder
from engines.onnxruntime.cuda_decoder_build import write_cuda_decoder
from engines.onnxruntime.device_memory import DeviceMemory, GpuMemory, HostMemory
from engines.onnxruntime.vision_encoder import VisionEncoder
from engines.vision_encoder import shares_a_gpu, vision_encoder
from engines.visual_rows import DeviceRows, join_rows
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits
from qwen3vl.sampling import SamplingParams
from tests.engines.support import ask
from tests.support.watched_memory import HIDDEN, WatchedMemory, numbers, on_device


@pytest.fixture
def memory() -> WatchedMemory:
    return WatchedMemory()


def test_an_encoder_leaves_each_requests_rows_where_it_is_told(random_build: Path, vision, inputs, memory):
    requests = [(inputs[kind].patches, inputs[kind].grids) for kind in ("image", "images", "text", "video", "image")]
    expected, asked = vision.encode_batch(requests), []

    def rows_memory() -> DeviceMemory:
        asked.append(True)
        return memory

    encoder = VisionEncoder(random_build / "engines", rows_memory=rows_memory)
    assert encoder.encode(*requests[2]).shape == (0, 64) and not asked  # neither engine nor GPU for words alone
    for _ in range(2):
        found = encoder.encode_batch(requests)
        assert [isinstance(rows, DeviceRows) for rows in found] == [True, True, False, True, True]
        for rows, array in zip(found, expected, strict=True):
            host = rows.to_host() if isinstance(rows, DeviceRows) else rows
            np.testing.assert_array_equal(host, array)
    assert len(asked) == 1
    del found, rows
    assert memory.blocks == 0
    told = VisionEncoder(random_build / "engines", rows_memory=lambda: None)
    np.testing.assert_array_equal(told.encode(*requests[0]), expected[0])


@pytest.fixture(scope="module")
def cuda_build(random_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model's decoder for a GPU, and the folders that a batcher reads."""
    folder = tmp_path_factory.mktemp("device_rows")
    (folder / "processor").symlink_to(random_build / "processor")
    (folder / "engines/decoder").mkdir(parents=True)
    description = EngineDescription.load(random_build / "engines")
    description.save(folder / "engines/engine.json")
    write_cuda_decoder(random_build / "onnx/decoder.onnx", folder / "engines/decoder", description.config,
                       kernels=False)
    return folder


@pytest.mark.parametrize("cuts", [[], [5, 20]])
def test_logits_are_those_of_rows_in_the_hosts_memory(cuda_build: Path, vision, inputs, memory, cuts: list[int]):
    prompt, array = inputs["images"], vision.encode(inputs["images"].patches, inputs["images"].grids)
    decoder, length = CudaDecoder(cuda_build / "engines", 2, 300, "cpu"), len(prompt.token_ids)
    found = []
    for slot, rows in enumerate((array, on_device(memory, array))):
        edges = [0, *cuts, length]
        found.append(np.concatenate([
            decoder.prefill(slot, prompt.token_ids[start:end], prompt.position_ids[:, start:end], rows, start,
                            np.arange(end - start, dtype=np.int32))
            for start, end in itertools.pairwise(edges)]))
    np.testing.assert_array_equal(found[0], found[1])
    assert memory.blocks == 0


def test_answers_are_those_of_rows_in_the_hosts_memory_and_no_rows_stay(cuda_build: Path, vision, inputs, memory):
    limits, kinds = Limits(prompt_tokens=300, total_tokens=400, queue=64), ("image", "images", "video", "text") * 2
    batcher = Batcher(cuda_build / "engines", limits, 3, device="cpu")

    def requests(move) -> list[GenerationRequest]:
        return [GenerationRequest(inputs[kind].token_ids, inputs[kind].position_ids, inputs[kind].rope_delta,
                                  move(vision.encode(inputs[kind].patches, inputs[kind].grids)),
                                  SamplingParams(max_tokens=20)) for kind in kinds]

    try:
        expected = [answer.ids() for answer in [ask(batcher, request) for request in requests(lambda rows: rows)]]
        asked = [ask(batcher, request)
                 for request in requests(lambda rows: on_device(memory, rows) if len(rows) else rows)]
        assert [answer.ids() for answer in asked] == expected
        cancelled = [ask(batcher, request) for request in requests(lambda rows: on_device(memory, rows)
                                                                   if len(rows) else rows)]
        for answer in cancelled:
            answer.ticket.cancel()
        for answer in cancelled:
            assert answer.done.wait(60)
    finally:
        batcher.close()
    del asked, cancelled, answer
    gc.collect()
    assert memory.blocks == 0


def test_rows_stay_on_a_gpu_only_between_two_engines_for_it(random_build: Path, cuda_build: Path, tmp_path: Path):
    assert not shares_a_gpu(random_build / "engines")
    engines = cuda_build / "engines"
    assert not shares_a_gpu(engines)  # its description says that the vision encoder is for the CPU
    description = EngineDescription.load(engines)
    (tmp_path / "decoder").mkdir()
    EngineDescription(description.config, "cuda", "fp32").save(tmp_path / "engine.json")
    assert not shares_a_gpu(tmp_path)
    (tmp_path / "decoder/cuda.json").write_bytes((engines / "decoder/cuda.json").read_bytes())
    assert shares_a_gpu(tmp_path)
    assert isinstance(vision_encoder(tmp_path, rows_memory=HostMemory), VisionEncoder)
    (tmp_path / "vision_encoder").mkdir()
    (tmp_path / "vision_encoder/tensorrt.json").write_text("{}")
    assert not shares_a_gpu(tmp_path)


# The driver.

def test_the_drivers_memory_copies_and_keeps_count(emulated_gpu):
    memory, array = GpuMemory(), numbers(5)
    rows = on_device(memory, array)
    joined = join_rows([rows, rows], HIDDEN)
    np.testing.assert_array_equal(joined.to_host(), np.concatenate([array, array]))
    del rows, joined
    counts = emulated_gpu.counts()
    assert counts["held"] == 0 and counts["within"] == 2 * array.nbytes and counts["to_device"] == array.nbytes


def test_any_number_of_threads_may_use_a_gpu(emulated_gpu):
    memory, found = GpuMemory(), []

    def work(seed: int) -> None:
        array = numbers(50, seed)
        for _ in range(50):
            rows = join_rows([on_device(memory, array)] * 2, HIDDEN)
            found.append(np.array_equal(rows.to_host()[50:], array))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200 and emulated_gpu.counts()["held"] == 0


def test_memory_is_shared_with_another_process_or_it_says_why_not(emulated_gpu, monkeypatch):
    assert sharing_problem(sys.executable) == ""
    assert emulated_gpu.counts()["held"] == 0 and emulated_gpu.counts()["opened"] == 1
    monkeypatch.setenv("EMULATED_CUDA_REFUSES_SHARING", "1")
    assert "could not open it" in (problem := sharing_problem(sys.executable)) and "error 801" in problem
    gpu = Gpu()
    with pytest.raises(ArtifactError, match="cuIpcOpenMemHandle"):
        gpu.open_shared(bytes(64))
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-there.so.1")
    assert "no NVIDIA driver" in sharing_problem(sys.executable)
