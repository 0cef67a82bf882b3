"""What is known not to work is refused by name before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines.trtllm.checks import load_plugin, load_tensorrt_llm
from engines.trtllm.model import model_class
from engines.trtllm.record import TrtllmRecord
from qwen3vl.errors import ArtifactError
from tests.engines.trtllm.stand_in.tensorrt import REGISTRY
from tests.engines.trtllm.support import LIBRARY, build, export_checkpoint, make_case_checkpoint, use_stand_in


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    return export_checkpoint(make_case_checkpoint(folder / "checkpoint"), folder / "build")


def test_without_tensorrt_llm_the_version_and_the_container_are_named(exported: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)  # whatever this machine has
    assert build(exported) == 1
    message = capsys.readouterr().err
    assert "TensorRT-LLM 1.2.1 cannot be imported" in message and "26.07-trtllm-python-py3" in message
    assert not (exported / "engines/trtllm").exists()


def test_the_model_class_alone_says_so_too(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(ArtifactError, match=r"TensorRT-LLM 1\.2\.1 cannot be imported"):
        model_class()


@pytest.mark.parametrize(("version", "message"), [
    ("1.3.0rc21", "no engines any more from 1.3.0rc21 on"), ("1.3.0", "no engines any more"),
    ("2.0.1", "no engines any more"), ("1.3.0rc20", "the only version that the model class was written for"),
    ("1.2.0", "the only version"), ("1.2.1rc3", "the only version"), ("0.20.0", "the only version"),
    ("unknown", "expected 1.2.1"),
])
def test_other_versions_are_refused_by_name(monkeypatch, version: str, message: str) -> None:
    use_stand_in(monkeypatch, version=version)
    with pytest.raises(ArtifactError, match=message) as raised:
        load_tensorrt_llm()
    assert f"TensorRT-LLM is version {version}" in str(raised.value)
    assert ("no engines" in str(raised.value)) == ("no engines" in message)


@pytest.mark.parametrize("version", ["1.2.1", "1.2.1+cu130"])
def test_the_version_is_let_through(monkeypatch, version: str) -> None:
    use_stand_in(monkeypatch, version=version)
    assert load_tensorrt_llm().__version__ == version


@pytest.mark.parametrize("version", ["10.12.0.36", "11.0.0", "9.3.0"])
def test_other_versions_of_tensorrt_are_refused(monkeypatch, version: str) -> None:
    use_stand_in(monkeypatch, tensorrt_version=version)
    with pytest.raises(ArtifactError, match=rf"tensorrt is version {version}, expected 10\.13"):
        load_tensorrt_llm()


def test_a_library_that_is_not_there_is_named_with_both_ways_out(exported: Path, capsys, monkeypatch) -> None:
    use_stand_in(monkeypatch)
    assert build(exported, plugin=Path("nowhere/libdeepstack_add_plugin.so")) == 1
    message = capsys.readouterr().err
    assert "no plugin library nowhere/libdeepstack_add_plugin.so" in message
    assert "cmake -S plugins/deepstack_add" in message and "--no-plugin" in message


def test_a_library_that_does_not_load_is_refused(tmp_path: Path, monkeypatch) -> None:
    use_stand_in(monkeypatch)
    (library := tmp_path / "lib.so").write_bytes(b"not a library")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        load_plugin(library)


def test_a_library_that_registers_nothing_is_refused(monkeypatch) -> None:
    use_stand_in(monkeypatch)
    monkeypatch.setattr(REGISTRY, "creators", {})
    with pytest.raises(ArtifactError, match="TensorRT has no plugin qwen3vl::DeepstackAdd version 1"):
        load_plugin(LIBRARY)


def test_a_record_that_is_missing_or_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist: run `qwen3vl build --target trtllm`"):
        TrtllmRecord.load(tmp_path)
    (tmp_path / "trtllm.json").write_text('{"format": 0}')
    with pytest.raises(ArtifactError, match="another version of this toolkit"):
        TrtllmRecord.load(tmp_path)
