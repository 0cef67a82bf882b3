"""Every use that `engines/trtllm` makes of TensorRT-LLM and TensorRT is in the signature table and binds."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

import engines
from tests.engines.trtllm.calls import uses
from tests.engines.trtllm.signature_table import SignatureTable, table

SOURCES = sorted(Path(engines.__file__).parent.glob("trtllm/**/*.py"))
# A table for the checker's own tests.
SMALL = {
    "tensorrt_llm": {"module": True}, "tensorrt_llm.builder": {"module": True},
    "tensorrt_llm.builder.build": {"call": "(model, build_config)", "returns": "tensorrt_llm.builder.Engine"},
    "tensorrt_llm.builder.Engine": {"call": "(config, engine, managed_weights={})"},
    "tensorrt_llm.builder.Engine.save": {"call": "(engine_dir)"},
    "tensorrt_llm.builder.Engine.config": {"type": ""},
    "tensorrt_llm.Engine": {"is": "tensorrt_llm.builder.Engine"},
    "tensorrt_llm.Fast": {"call": "(config, engine)", "bases": ["tensorrt_llm.builder.Engine"]},
    "tensorrt_llm.all_engines": {"call": "(*, kind)", "returns": "list[tensorrt_llm.builder.Engine]"},
    "tensorrt_llm.Engine.forward": {"call": "(ids, table=None)"},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SignatureTable:
    rows = {name: {**row, "source": "a.py", "version": "1"} for name, row in SMALL.items()}
    rows["tensorrt_llm.builder.Engine.forward"] = rows.pop("tensorrt_llm.Engine.forward")
    path = tmp_path_factory.mktemp("table") / "small.json"
    path.write_text(json.dumps(rows))
    return SignatureTable([path])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_use_is_in_the_table_and_binds(path: Path) -> None:
    problems = [f"{path}:{use.line}: {use.problem}" for use in uses(path.read_text(), table()) if use.problem]
    assert not problems, "\n".join(problems)


def test_what_is_called_by_way_of_other_calls_is_seen_too() -> None:
    found = {use.name for path in SOURCES for use in uses(path.read_text(), table()) if use.called}
    assert {"tensorrt.IPluginRegistry.get_creator", "tensorrt.IPluginCreatorV3One.create_plugin",
            "tensorrt.INetworkDefinition.add_plugin_v3", "tensorrt.ILayer.get_output",
            "tensorrt_llm.functional.where", "tensorrt_llm.functional._create_tensor",
            "tensorrt_llm.models.qwen.model.QWenDecoderLayer.forward",
            "tensorrt_llm.models.qwen.model.QWenModel.forward",
            "tensorrt_llm.models.qwen.model.QWenForCausalLM.prepare_inputs", "tensorrt_llm.builder.BuildConfig",
            "tensorrt_llm.builder.Engine.save"} <= found


@pytest.mark.parametrize("code", [
    "from tensorrt_llm.builder import build\nbuild(1, build_config=2).save('x')",
    "import tensorrt_llm as t\nt.builder.build(*a).save(engine_dir='x')",
    "import importlib\nt = importlib.import_module('tensorrt_llm.builder')\nt.build(1, 2)",
    "import tensorrt_llm\nfor e in tensorrt_llm.all_engines(kind=1):\n    e.save('x'); e.config.anything.goes()",
    "from tensorrt_llm import Engine\nclass A(Engine):\n    def forward(self, ids, table=None):\n"
    "        return super().forward(ids, table=table)\nA(1).save(2)",
    "from tensorrt_llm import Engine\nclass A(Engine):\n    def forward(self, ids, *rest, **more):\n"
    "        self.mine = 1\n        return self.mine, self.config",
])
def test_right_uses_are_let_through(small: SignatureTable, code: str) -> None:
    found = uses(code, small)
    assert found and not [use.problem for use in found if use.problem]


@pytest.mark.parametrize(("code", "message"), [
    ("from tensorrt_llm.builder import bild", "tensorrt_llm.builder.bild is not in"),
    ("import tensorrt_llm.build", "tensorrt_llm.build is not in"),
    ("import importlib\nimportlib.import_module('tensorrt_llm.x')", "tensorrt_llm.x is not in"),
    ("from tensorrt_llm.builder import build\nbuild(1)", "missing a required argument: 'build_config'"),
    ("from tensorrt_llm.builder import build\nbuild(1, 2, config=3)", "'config'"),
    ("from tensorrt_llm.builder import build\nbuild(1, 2).store('x')", "Engine.store is not in"),
    ("from tensorrt_llm.builder import build\ne = build(1, 2)\ne.save()", "missing a required argument: 'engine_dir'"),
    ("from tensorrt_llm.builder import build\nwith build(1, 2) as e:\n    e.save(1, 2)", "too many positional"),
    ("import tensorrt_llm\n[e.save() for e in tensorrt_llm.all_engines(kind=1)]", "engine_dir"),
    ("import tensorrt_llm\ntensorrt_llm.all_engines(1)", "too many positional"),
    ("from tensorrt_llm import Engine\ndef f(e: Engine | None):\n    e.stop()", "Engine.stop is not in"),
    ("from tensorrt_llm import Engine\ndef f(es: list[Engine]):\n    es[0].stop()", "Engine.stop is not in"),
    ("from tensorrt_llm import Engine\ndef make() -> Engine: ...\nmake().stop()", "Engine.stop is not in"),
    ("from tensorrt_llm import Engine\nclass A:\n    def __init__(self, e: Engine):\n        self.e = e\n"
     "    def f(self):\n        self.e.stop()", "Engine.stop is not in"),
    ("from tensorrt_llm import Fast\nclass A(Fast):\n    def f(self):\n        self.stop()", "Fast.stop is not in"),
    ("from tensorrt_llm import Fast\nclass A(Fast):\n    def f(self):\n        super().save()", "engine_dir"),
    ("from tensorrt_llm import Engine\nclass A(Engine):\n    def forward(self, ids): ...", "does not fit"),
    ("from tensorrt_llm import Engine\ndef outer():\n    class A(Engine):\n        def f(self):\n"
     "            return self.forward()", "missing a required argument: 'ids'"),
])
def test_wrong_uses_are_found(small: SignatureTable, code: str, message: str) -> None:
    problems = [use.problem for use in uses(textwrap.dedent(code), small) if use.problem]
    assert len(problems) == 1 and message in problems[0], problems
