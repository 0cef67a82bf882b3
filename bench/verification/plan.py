"""The steps of a verification, for each target."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.verification import evidence, machine
from bench.verification.runner import PROJECT
from bench.verification.step import Check, Command, Step
from engines.trtllm.options import PLUGIN_LIBRARY
from export.trtllm.parallel import Parallelism
from qwen3vl.checkpoint import Checkpoint
from qwen3vl.json_files import read_json

BUNDLED = PROJECT / "models/tiny-shapes"
SAMPLE_ANSWER = "A red circle, a blue square and a yellow triangle."
# As large as anything that is asked here.
IMAGE_PIXELS = 1 << 20
SIZES = ("--max-num-tokens", "2048", "--max-visual-tokens", "1024", "--max-image-pixels", str(IMAGE_PIXELS),
         "--max-frames", "4")
PLUGIN_FOLDER = PLUGIN_LIBRARY.parent
LIBRARY = "plugin-library"
PLUGIN, PLAIN = ("--plugin", str(PLUGIN_LIBRARY)), ("--no-plugin",)


@dataclass(frozen=True)
class Settings:
    """What is verified, and how.

    Attributes:
        target: "trtllm", or "cpu" as a rehearsal.
        output: folder for everything that is made.
        reference_python: the interpreter that has torch and transformers.
        tensorrt_root: folder of TensorRT with its headers.
        parallelism: the division among GPUs.
        max_length: longest sequence, in tokens.
        plugin: whether the DeepstackAdd plugin is built and used.
    """

    target: str
    output: Path
    reference_python: str = sys.executable
    tensorrt_root: str = "/usr/local/tensorrt"
    parallelism: Parallelism = field(default_factory=Parallelism)
    max_length: int = 4096
    plugin: bool = True

    @property
    def launcher(self) -> Command:
        """Before commands that run engines: with several GPUs they start processes through MPI."""
        return ("mpirun", "--allow-run-as-root", "-n", "1") if self.parallelism.world_size > 1 else ()


def make_plan(checkpoints: dict[str, Path], settings: Settings) -> list[Step]:
    """Every step, in order.

    Args:
        checkpoints: by the names they have in the report.
    """
    plan = _CpuPlan if settings.target == "cpu" else _TrtllmPlan
    steps = [Step("environment", "software and machine", look=lambda: machine.checks(settings.target))]
    if settings.target == "trtllm" and settings.plugin:
        steps.append(Step(LIBRARY, "build the DeepstackAdd plugin and check it on this GPU", _plugin_commands(settings),
                          needs=("environment",)))
    return steps + [step for name, path in checkpoints.items() for step in plan(name, path, settings).steps()]


def _plugin_commands(settings: Settings) -> tuple[Command, ...]:
    folder = str(PLUGIN_FOLDER)
    return (("cmake", "-S", "plugins/deepstack_add", "-B", folder, f"-DTENSORRT_ROOT={settings.tensorrt_root}",
             "-DWITH_GPU_CHECKS=ON"),
            ("cmake", "--build", folder, "--parallel"), ("ctest", "--test-dir", folder, "--output-on-failure"))


class _Plan:
    """Steps for one checkpoint; their names begin with its name."""

    precision: str

    def __init__(self, name: str, checkpoint: Path, settings: Settings):
        self.name, self.checkpoint, self.settings = name, str(checkpoint), settings
        self.folder = settings.output / name
        self.build, self.expected = self.folder / "build", self.folder / "expected"

    def step(self, name: str, title: str, *commands: Command, needs: tuple[str, ...] = (),
             look: Callable[[], list[Check]] | None = None, **more: tuple) -> Step:
        names = tuple(need if need in ("environment", LIBRARY) else f"{self.name}-{need}" for need in needs)
        return Step(f"{self.name}-{name}", f"{self.name}: {title}", commands, look, names, **more)

    def export(self, *options: str) -> Step:
        return self.step("export", "export", qwen3vl("export", self.checkpoint, "-o", self.build, *options),
                         needs=("environment",))

    def reference(self) -> Step:
        command = qwen3vl("check", self.build, "--checkpoint", self.checkpoint, "--expected", self.expected,
                          "--reference-only", python=self.settings.reference_python)
        return self.step("reference", "ask transformers", command, needs=("export",))

    def compare(self, name: str, title: str, *build_options: str, needs: tuple[str, ...]) -> Step:
        """Build engines and compare them with the reference, level by level and token by token."""
        check = qwen3vl("check", self.build, "--checkpoint", self.checkpoint, "--expected", self.expected, "--force",
                        "--logits", logits := self.logits(name))
        return self.step(name, title, qwen3vl("build", self.build, *build_options), self.settings.launcher + check,
                         needs=("reference", *needs), look=lambda: evidence.fidelity(self.build, logits),
                         makes=(logits,), judged=(1,))

    def logits(self, name: str) -> Path:
        return self.folder / f"logits-{name}.npz"

    def serving(self, prepare: tuple[Command, ...], needs: tuple[str, ...], load: tuple[str, ...]) -> list[Step]:
        """A question and a load test through Triton. Each makes sure of its engines first: others came in between."""
        answer = SAMPLE_ANSWER if Path(self.checkpoint).resolve() == BUNDLED else None
        log, report = self.settings.output / f"logs/{self.name}-answer.txt", self.folder / "load.json"
        launcher = self.settings.launcher
        return [
            self.step("answer", "a question through Triton", *prepare, launcher + qwen3vl("demo", self.build),
                      needs=needs, look=lambda: evidence.answer(log, answer)),
            self.step("load", "a load test through Triton", *prepare,
                      launcher + qwen3vl("bench", "serve", self.build, *load, "--verify", "-o", report),
                      needs=("answer",), look=lambda: evidence.load(report, self.precision), makes=(report,),
                      judged=(1,))]


class _CpuPlan(_Plan):
    """A rehearsal on ONNX Runtime: the same checks and the same report, without a GPU."""

    precision = "fp32"

    def steps(self) -> list[Step]:
        build = qwen3vl("build", self.build, "--target", "cpu")
        prepare = (build, qwen3vl("compose", self.build, "--slots", "4"), qwen3vl("repo", "check", self.build))
        load = ("--concurrency", "4", "--requests", "12", "--answer-tokens", "4", "24", "--text-tokens", "16", "64",
                "--images", "0", "2", "--image-size", "128x128", "192x128")
        return [self.export(), self.reference(),
                self.compare("engines", "engines against transformers", "--target", "cpu", needs=()),
                *self.serving(prepare, ("engines",), load)]


class _TrtllmPlan(_Plan):
    precision = "bf16"

    def steps(self) -> list[Step]:
        parallelism = self.settings.parallelism
        export = self.export("--format", "trtllm", "--dtype", "bfloat16", "--tp", str(parallelism.tp), "--pp",
                             str(parallelism.pp), "--ep", str(parallelism.ep), "--max-length", str(self._length))
        compared = [self._compare("plain", "engine without the plugin against transformers", *PLAIN)]
        if self.settings.plugin:
            first, second = self.logits("plugin"), self.logits("plain")
            compared = [
                self._compare("plugin", "engine with the plugin against transformers", *PLUGIN, needs=(LIBRARY,)),
                *compared,
                self.step("paths", "the plugin's logits against those of TensorRT's own operations",
                          needs=("plugin", "plain"),
                          look=lambda: evidence.same_logits(first, second, self.expected, self.precision))]
        return [export, self.reference(), *compared, *self._serve()]

    def _compare(self, name: str, title: str, *plugin: str, needs: tuple[str, ...] = ()) -> Step:
        return self.compare(name, title, "--target", "trtllm", "--max-batch", "2", "--context-logits", *plugin,
                            *self._sizes, needs=needs)

    def _serve(self) -> list[Step]:
        plugin, needs = (PLUGIN, ("plugin",)) if self.settings.plugin else (PLAIN, ("plain",))
        build = qwen3vl("build", self.build, "--target", "trtllm", "--max-batch", "16", *plugin, *self._sizes)
        prepare = (build, qwen3vl("compose", self.build, "--slots", "16"), qwen3vl("repo", "check", self.build))
        load = ("--concurrency", "1", "4", "16", "32", "--requests", "64", "--answer-tokens", "4", "24",
                "--text-tokens", "16", "256", "--images", "0", "2", "--image-size", "128x128", "224x224", "448x336")
        return self.serving(prepare, needs, load)

    @property
    def _sizes(self) -> tuple[str, ...]:
        return (*SIZES, "--prompt-tokens", str(self._length * 3 // 4))

    @property
    def _length(self) -> int:
        longest = read_json(Path(self.checkpoint) / "config.json")["text_config"]["max_position_embeddings"]
        return min(self.settings.max_length, longest)


def qwen3vl(*arguments: object, python: str = sys.executable) -> Command:
    return (python, "-m", "client.cli", *map(str, arguments))


def fingerprints(checkpoints: dict[str, Path]) -> dict[str, str]:
    """Name of each checkpoint -> what tells it from others."""
    found = {}
    for name, path in checkpoints.items():
        with Checkpoint.open(path) as checkpoint:
            found[name] = checkpoint.fingerprint()
    return found
