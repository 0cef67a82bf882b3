"""Rules of Triton for ensembles, checked on the configurations alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonConfig
from tritonclient.grpc.model_config_pb2 import ModelEnsembling, ModelInput, ModelOutput

from triton_repo.config_pbtxt import dtype_name


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a repository: which model, which field, and what about it."""

    model: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.model}: {self.field}: {self.message}"


@dataclass(frozen=True)
class _Source:
    """Where a tensor of the ensemble comes from."""

    tensor: ModelInput | ModelOutput
    owner: str
    step: int | None
    optional: bool


def check_ensemble(ensemble: TritonConfig, models: Mapping[str, TritonConfig]) -> Iterator[Problem]:
    """Everything that is wrong with an ensemble, given the models by name."""
    yield from _check_settings(ensemble)
    steps = ensemble.ensemble_scheduling.step
    if not steps:
        yield Problem(ensemble.name, "ensemble_scheduling.step", "there are no steps, expected at least one")
        return
    missing = [(i, step.model_name) for i, step in enumerate(steps) if step.model_name not in models]
    for i, name in missing:
        yield Problem(ensemble.name, f"step[{i}].model_name", f"there is no model {name!r}, only "
                      f"{', '.join(sorted(models))}")
    if missing:
        return
    sources: dict[str, _Source] = {}
    yield from _collect_sources(ensemble, models, sources)
    for i, step in enumerate(steps):
        yield from _check_step(ensemble.name, i, step, models[step.model_name], sources)
    yield from _check_outputs(ensemble, sources)
    yield from _check_unused(ensemble, sources)
    order = _order(steps, sources)
    if order is None:
        yield Problem(ensemble.name, "ensemble_scheduling.step", "the steps wait for each other in a circle")
    else:
        yield from _check_decoupling(ensemble, models, sources, order)


def _check_settings(ensemble: TritonConfig) -> Iterator[Problem]:
    for field in ("instance_group", "model_warmup", "optimization", "dynamic_batching", "sequence_batching",
                  "model_transaction_policy"):
        value = getattr(ensemble, field)
        if len(value) if hasattr(value, "__len__") else ensemble.HasField(field):
            yield Problem(ensemble.name, field, "is set, but an ensemble has none of its own: set it on the steps")
    if ensemble.backend:
        yield Problem(ensemble.name, "backend", f"is {ensemble.backend!r}, expected none for an ensemble")


def _collect_sources(ensemble: TritonConfig, models: Mapping[str, TritonConfig],
                     sources: dict[str, _Source]) -> Iterator[Problem]:
    """Fill `sources`: the ensemble's tensors by name."""
    for tensor in ensemble.input:
        sources[tensor.name] = _Source(tensor, f"input {tensor.name}", None, tensor.optional)
    for i, step in enumerate(ensemble.ensemble_scheduling.step):
        outputs = {tensor.name: tensor for tensor in models[step.model_name].output}
        for name, target in sorted(step.output_map.items()):
            where = f"step[{i}].output_map[{name!r}]"
            if name not in outputs:
                yield Problem(ensemble.name, where, f"{step.model_name} has no output {name!r}, only "
                              f"{', '.join(outputs)}")
            elif target in sources:
                yield Problem(ensemble.name, where, f"produces {target!r} again, after {sources[target].owner}: each "
                              "tensor may be produced once")
            else:
                # Outputs that a response leaves out reach the next step as inputs left out.
                sources[target] = _Source(outputs[name], f"step[{i}] ({step.model_name})", i, False)


def _check_step(ensemble: str, i: int, step: ModelEnsembling.Step, model: TritonConfig,
                sources: Mapping[str, _Source]) -> Iterator[Problem]:
    inputs = {tensor.name: tensor for tensor in model.input}
    for tensor in model.input:
        if tensor.name not in step.input_map and not tensor.optional:
            yield Problem(ensemble, f"step[{i}].input_map", f"does not map {tensor.name!r}, a required input of "
                          f"{step.model_name}")
    for name, source_name in sorted(step.input_map.items()):
        where = f"step[{i}].input_map[{name!r}]"
        if name not in inputs:
            yield Problem(ensemble, where, f"{step.model_name} has no input {name!r}, only {', '.join(inputs)}")
        elif source_name not in sources:
            yield Problem(ensemble, where, f"nothing produces {source_name!r}: it is neither an input of the ensemble "
                          "nor an output of a step")
        else:
            source = sources[source_name]
            yield from _check_fit(ensemble, where, source, inputs[name], f"{step.model_name}'s input {name}")
            if source.optional and not inputs[name].optional:
                yield Problem(ensemble, where, f"{source.owner} is optional, but {step.model_name} requires {name!r}")
    if model.max_batch_size:
        yield Problem(ensemble, f"step[{i}].model_name", f"{step.model_name} has max_batch_size "
                      f"{model.max_batch_size}, expected 0: models of this repository take one request at a time")


def _check_outputs(ensemble: TritonConfig, sources: Mapping[str, _Source]) -> Iterator[Problem]:
    for output in ensemble.output:
        source = sources.get(output.name)
        if source is None or source.step is None:
            yield Problem(ensemble.name, f"output[{output.name!r}]", "no step produces it")
        else:
            yield from _check_fit(ensemble.name, f"output[{output.name!r}]", source, output, "the ensemble's output")


def _check_unused(ensemble: TritonConfig, sources: Mapping[str, _Source]) -> Iterator[Problem]:
    used = {name for step in ensemble.ensemble_scheduling.step for name in step.input_map.values()}
    used |= {output.name for output in ensemble.output}
    for name, source in sources.items():
        if name not in used:
            yield Problem(ensemble.name, f"tensor {name!r}", f"{source.owner} provides it, but nothing uses it")


def _check_fit(ensemble: str, where: str, source: _Source, target: ModelInput | ModelOutput,
               target_name: str) -> Iterator[Problem]:
    if source.tensor.data_type != target.data_type:
        yield Problem(ensemble, where, f"{source.owner} gives {dtype_name(source.tensor.data_type)}, but {target_name} "
                      f"is {dtype_name(target.data_type)}")
    given, taken = list(source.tensor.dims), list(target.dims)
    if len(given) != len(taken) or any(-1 not in (a, b) and a != b for a, b in zip(given, taken, strict=True)):
        yield Problem(ensemble, where, f"{source.owner} has the shape {given}, but {target_name} has {taken}")


def _order(steps: Sequence[ModelEnsembling.Step], sources: Mapping[str, _Source]) -> list[int] | None:
    """Step numbers, each after those it takes tensors from; None if there is no such order."""
    waiting, done, order = set(range(len(steps))), {None}, []
    while waiting:
        ready = [i for i in sorted(waiting) if _origins(steps[i], sources) <= done]
        if not ready:
            return None
        order += ready
        done |= set(ready)
        waiting -= set(ready)
    return order


def _origins(step: ModelEnsembling.Step, sources: Mapping[str, _Source]) -> set[int | None]:
    return {sources[name].step for name in step.input_map.values() if name in sources}


def _check_decoupling(ensemble: TritonConfig, models: Mapping[str, TritonConfig], sources: Mapping[str, _Source],
                      order: Sequence[int]) -> Iterator[Problem]:
    """A step that takes tensors of a decoupled step, or of a step after one, takes all of them from there: responses
    are matched by their count, and a tensor from elsewhere comes once only. The same goes for the outputs."""
    steps = ensemble.ensemble_scheduling.step
    last_decoupled: dict[int | None, int | None] = {None: None}
    for i in order:
        behind = {last_decoupled[origin] for origin in _origins(steps[i], sources)}
        yield from _check_one_decoupled(ensemble, f"step[{i}].input_map", steps[i].model_name, behind)
        decoupled = models[steps[i].model_name].model_transaction_policy.decoupled
        last_decoupled[i] = i if decoupled else max((k for k in behind if k is not None), default=None)
    behind = {last_decoupled[sources[output.name].step] for output in ensemble.output if output.name in sources}
    yield from _check_one_decoupled(ensemble, "output", "the ensemble's response", behind)


def _check_one_decoupled(ensemble: TritonConfig, field: str, taker: str, behind: set[int | None]) -> Iterator[Problem]:
    if len(behind) > 1:
        steps = ensemble.ensemble_scheduling.step
        names = sorted("no decoupled model" if k is None else f"step[{k}] ({steps[k].model_name})" for k in behind)
        yield Problem(ensemble.name, field, f"{taker} takes tensors that come through {' and '.join(names)}, expected "
                      "all of them through one: pass tensors on through the decoupled step")
