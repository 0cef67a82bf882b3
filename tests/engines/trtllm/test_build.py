"""`qwen3vl build --target trtllm`: what it asks of TensorRT-LLM, what it writes, repeats, resumes and refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from client.cli import main
from engines.builder import build_engines
from engines.description import EngineDescription
from engines.tensorrt.record import EngineRecord
from engines.trtllm.options import TrtllmBuildOptions
from engines.trtllm.record import TrtllmRecord
from export.build_folder import BuildFolder
from export.trtllm.parallel import Parallelism
from qwen3vl.errors import ArtifactError
from qwen3vl.limits import Limits
from tests.engines.trtllm.stand_in import builder
from tests.engines.trtllm.support import LENGTH, LIBRARY, build, export_checkpoint, make_case_checkpoint, use_stand_in

ENGINES = "engines/trtllm"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_case_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("export"), Parallelism(tp=2))


@pytest.fixture
def folder(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stand_in(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(exported, tmp_path / "build")


def states(folder: Path) -> dict[str, list]:
    return {path.name: [path.stat().st_mtime_ns, path.read_bytes()] for path in (folder / ENGINES).iterdir()}


def test_the_engine_s_sizes_are_the_deployment_s(folder: Path) -> None:
    assert build(folder, "--max-num-tokens", "777", "--prompt-tokens", "300") == 0
    values = json.loads((folder / ENGINES / "config.json").read_text())
    config, plugins = values["build_config"], values["build_config"]["plugin_config"]
    assert config["max_batch_size"] == 4 and config["max_num_tokens"] == 777 and config["max_beam_width"] == 1
    assert config["max_input_len"] == 300 and config["max_seq_len"] == LENGTH
    assert config["max_prompt_embedding_table_size"] == 4 * (1 + 3) * 64
    assert config["use_mrope"] is True and config["gather_context_logits"] is False
    assert plugins["paged_kv_cache"] is plugins["remove_input_padding"] is plugins["use_paged_context_fmha"] is True
    assert plugins["dtype"] == "bfloat16"
    assert {plugins[name] for name in ("gpt_attention_plugin", "moe_plugin", "gemm_plugin")} == {"auto"}
    assert values["pretrained_config"]["deepstack_levels"] == 3
    assert values["pretrained_config"]["deepstack_plugin"] is False
    # TensorRT-LLM's file of kernel times is neither in the working folder nor among the engines.
    assert [path.name for path in Path.cwd().iterdir()] == ["build"] and not list(folder.rglob("*.cache"))


def test_defaults_are_the_limits_of_the_deployment(folder: Path) -> None:
    sizes = TrtllmBuildOptions().sizes(BuildFolder(folder), 20480)
    assert (sizes.max_batch, sizes.max_num_tokens, sizes.max_visual_tokens) == (8, 8192, 4096)
    assert (sizes.prompt_tokens, sizes.total_tokens) == (16384, 20480)
    assert TrtllmBuildOptions().sizes(BuildFolder(folder), 1000).prompt_tokens == 800
    (folder / "limits.json").write_text(json.dumps(Limits(prompt_tokens=200, total_tokens=512).to_dict()))
    assert TrtllmBuildOptions().sizes(BuildFolder(folder), 1000).prompt_tokens == 200
    assert TrtllmBuildOptions().sizes(BuildFolder(folder), 1000).max_visual_tokens == 200


def test_the_record_says_what_the_runtime_needs(folder: Path) -> None:
    assert build(folder, plugin=True) == 0
    record = TrtllmRecord.load(folder / ENGINES)
    assert (record.version, record.tensorrt, record.compute_capability) == ("1.2.1", "10.13.3.9", "9.0")
    assert (record.dtype, record.parallelism) == ("bfloat16", Parallelism(tp=2))
    assert (record.vocab_size, record.levels, record.rows_per_token, record.hidden_size) == (301, 3, 4, 64)
    assert record.rotary_dim == 24 and record.context_logits is False
    assert (folder / ENGINES / record.plugin).read_bytes() == LIBRARY.read_bytes()
    assert EngineDescription.load(folder / "engines").target == "trtllm"
    artifacts = BuildFolder(folder).manifest["artifacts"]
    assert {f"{ENGINES}/{name}" for name in ("rank0.engine", "rank1.engine", "config.json", "trtllm.json")} \
        <= set(artifacts)
    assert artifacts[f"{ENGINES}/rank1.engine"]["made_from"]["record"]["sizes"]["max_batch"] == 4


def test_one_command_builds_both_engines(folder: Path) -> None:
    """The vision encoder's by TensorRT; here by TensorRT for RTX, which needs no GPU to build."""
    assert main(["build", str(folder), "--target", "trtllm", "--no-plugin", "--max-visual-tokens", "64",
                 "--flavour", "tensorrt_rtx", "--compute-capability", "8.9", "--max-image-pixels", "16384",
                 "--max-frames", "1"]) == 0
    assert EngineRecord.load(folder / "engines/vision_encoder").precision == "bf16"
    assert TrtllmRecord.load(folder / ENGINES).dtype == "bfloat16"
    assert not (folder / "engines/decoder").exists()


def test_nothing_is_built_twice(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert build(folder, plugin=True) == 0
    errors, before = capsys.readouterr().err, states(folder)
    assert "rank0.engine of 2" in errors and "rank1.engine of 2" in errors and "TensorRT-LLM 1.2.1" in errors
    assert build(folder, plugin=True) == 0
    assert states(folder) == before and "are up to date" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--max-num-tokens", "100"], ["--context-logits"], ["--prompt-tokens", "99"]])
def test_another_option_builds_anew(folder: Path, options: list[str]) -> None:
    assert build(folder) == 0
    before = states(folder)
    assert build(folder, *options) == 0
    after = states(folder)
    assert all(after[name] != before[name] for name in ("rank0.engine", "rank1.engine", "config.json", "trtllm.json"))


def test_without_the_plugin_no_library_is_left(folder: Path) -> None:
    assert build(folder, plugin=True) == 0
    assert build(folder) == 0
    assert sorted(states(folder)) == ["config.json", "rank0.engine", "rank1.engine", "trtllm.json"]
    assert TrtllmRecord.load(folder / ENGINES).plugin is None


def test_a_build_that_ends_in_between_goes_on_with_the_next_gpu(folder: Path, monkeypatch) -> None:
    save = builder.Engine.save

    def interrupted(engine, engine_dir):
        if engine.engine.model.config.mapping.rank == 1:
            raise KeyboardInterrupt
        save(engine, engine_dir)

    with monkeypatch.context() as patch:
        patch.setattr(builder.Engine, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_engines(folder, "trtllm", ["decoder"], trtllm=TrtllmBuildOptions(plugin=None, max_visual_tokens=64))
    assert sorted(states(folder)) == ["config.json", "rank0.engine"]  # no record: not whole
    before = states(folder)
    build_engines(folder, "trtllm", ["decoder"], trtllm=TrtllmBuildOptions(plugin=None, max_visual_tokens=64))
    after = states(folder)
    assert sorted(after) == ["config.json", "rank0.engine", "rank1.engine", "trtllm.json"]
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("name", ["config.json", "rank0.engine"])
def test_a_file_that_is_gone_comes_back_with_what_was_made_with_it(folder: Path, name: str) -> None:
    assert build(folder) == 0
    before = states(folder)
    (folder / ENGINES / name).unlink()
    assert build(folder) == 0
    after = states(folder)
    assert after["rank1.engine"] == before["rank1.engine"] and after.keys() == before.keys()
    assert after["rank0.engine"] != before["rank0.engine"]


def test_engines_of_fewer_gpus_leave_none_of_more(folder: Path, checkpoint: Path) -> None:
    assert build(folder) == 0
    export_checkpoint(checkpoint, folder)
    assert build(folder) == 0
    assert sorted(states(folder)) == ["config.json", "rank0.engine", "trtllm.json"]


def test_new_weights_make_a_new_engine(folder: Path, tmp_path: Path) -> None:
    assert build(folder) == 0
    before = states(folder)
    export_checkpoint(make_case_checkpoint(tmp_path / "other", seed=5), folder, Parallelism(tp=2))
    assert build(folder) == 0
    assert states(folder)["rank1.engine"] != before["rank1.engine"]


def test_a_checkpoint_that_is_not_whole_is_refused(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "trtllm/rank1.safetensors").unlink()
    assert build(folder) == 1
    assert "rank1.safetensors has not been made: run `qwen3vl export" in capsys.readouterr().err
    assert not (folder / ENGINES).exists()


def test_a_network_that_is_refused_leaves_the_rest_as_it_was(folder: Path, monkeypatch, capsys) -> None:
    assert build(folder) == 0

    def refuse(model, build_config):
        raise AssertionError("Engine building failed, please check the error log.")

    monkeypatch.setattr(sys.modules["tensorrt_llm.builder"], "build", refuse)
    assert build(folder, "--context-logits") == 1
    assert "cannot build engines/trtllm/rank0.engine (AssertionError: Engine building failed" in capsys.readouterr().err
    assert not list(folder.rglob(".tmp-*"))
    with pytest.raises(ArtifactError, match="build --target trtllm"):
        TrtllmRecord.load(folder / ENGINES)


@pytest.mark.parametrize(("options", "message"), [
    (["--max-batch", "0"], "--max-batch is 0, expected a number above 0"),
    (["--max-num-tokens", "0"], "--max-num-tokens is 0"),
    (["--prompt-tokens", "0"], "--prompt-tokens is 0"),
    (["--prompt-tokens", "512"], "--prompt-tokens is 512, expected less than 512, the --max-length of the export"),
    (["--prompt-tokens", "63"], "--max-visual-tokens is 64, expected at most --prompt-tokens = 63"),
])
def test_sizes_that_do_not_fit_are_refused(folder: Path, capsys, options: list[str], message: str) -> None:
    assert build(folder, *options) == 1
    assert message in capsys.readouterr().err
    assert not (folder / ENGINES).exists()


def test_an_export_of_another_format_is_refused(random_build: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    use_stand_in(monkeypatch)
    folder = shutil.copytree(random_build, tmp_path / "build")
    assert build(folder) == 1
    assert "--format trtllm` first" in capsys.readouterr().err


def test_deepstack_levels_beyond_the_first_stage_are_refused(folder: Path, capsys) -> None:
    path = folder / "trtllm/config.json"
    values = json.loads(path.read_text())
    values["mapping"] |= {"tp_size": 1, "pp_size": 3, "world_size": 3, "moe_tp_size": 1}
    path.write_text(json.dumps(values))
    assert build(folder) == 1
    assert "only the first stage knows the token ids" in capsys.readouterr().err
