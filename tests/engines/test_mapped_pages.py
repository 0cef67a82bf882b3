"""Pages of mapped files: given back unless they were changed, and read again when they are needed."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from engines.onnxruntime.decoder import Decoder
from engines.onnxruntime.mapped_pages import MAPPING, SMAPS, release_mapped_pages
from engines.onnxruntime.session import WEIGHTS_FILE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")


def resident(file: Path) -> list[int]:
    """Bytes in memory of each of this process's mappings of a file."""
    found, inside = [], False
    for line in SMAPS.read_text().splitlines():
        if match := MAPPING.match(line):
            inside = match[3] == str(file.resolve())
        elif inside and line.startswith("Rss:"):
            found.append(int(line.split()[1]) * 1024)
    return found


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    file = tmp_path / "a file of numbers"
    np.arange(1 << 18, dtype=np.int32).tofile(file)
    return file


def test_pages_leave_memory_and_come_back(numbers: Path):
    mapped = np.memmap(numbers, np.int32, "r")
    total = mapped.sum(dtype=np.int64)
    assert resident(numbers) == [1 << 20]
    assert release_mapped_pages(numbers) == 1 << 20 and resident(numbers) == [0]
    assert mapped.sum(dtype=np.int64) == total and resident(numbers) == [1 << 20]


def test_what_was_written_to_a_private_mapping_stays(numbers: Path):
    with numbers.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as changed:
        changed[5000] = 77
        assert release_mapped_pages(numbers) == 0 and changed[5000] == 77


def test_other_files_are_left_alone(numbers: Path, tmp_path: Path):
    mapped = np.memmap(numbers, np.int32, "r")
    assert mapped.max() == (1 << 18) - 1
    assert release_mapped_pages(tmp_path / "a file") == 0 and resident(numbers) == [1 << 20]


def test_a_loaded_decoder_has_no_weights_in_memory_before_it_runs(random_build: Path):
    decoder = Decoder(random_build / "engines", slots=1, capacity=8)
    weights = random_build / "engines/decoder" / WEIGHTS_FILE
    assert resident(weights) and not any(resident(weights))
    decoder.decode(np.array([3], np.int32), np.array([0], np.int32), np.array([1], np.int32))
    assert any(resident(weights))
