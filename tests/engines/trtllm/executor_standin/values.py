"""The bindings' plain classes, made from the signature table: wrong arguments are refused as by the real ones."""

from __future__ import annotations

import enum

from tests.engines.trtllm.signature_table import signature, table

MODULE = "tensorrt_llm.bindings.executor"


def value_class(name: str, validate=lambda value: None) -> type:
    """A class whose constructor takes what the table says, as attributes of the same names; None where not given."""
    bound = signature(table().rows[f"{MODULE}.{name}"].call)

    def __init__(self, *args, **kwargs):
        arguments = bound.bind(*args, **kwargs)
        arguments.apply_defaults()
        vars(self).update(arguments.arguments)
        validate(self)

    return type(name, (), {"__init__": __init__})


def enum_class(name: str) -> type[enum.Enum]:
    prefix = f"{MODULE}.{name}."
    return enum.Enum(name, [row.removeprefix(prefix) for row in table().rows if row.startswith(prefix)])


def _sampling(config) -> None:
    """cpp/tensorrt_llm/executor/samplingConfig.cpp"""
    checks = {"top_k": lambda value: value >= 0, "top_p": lambda value: 0 < value <= 1,
              "temperature": lambda value: value >= 0, "repetition_penalty": lambda value: value > 0,
              "seed": lambda value: 0 <= value < 2**64}
    for name, accepts in checks.items():
        if (value := getattr(config, name)) is not None and not accepts(value):
            raise RuntimeError(f"[TensorRT-LLM][ERROR] Assertion failed: {name}")


def _tensor(name: str):
    def check(config) -> None:
        import torch

        if not isinstance(getattr(config, name), torch.Tensor):
            raise TypeError("__init__(): incompatible function arguments")

    return check


FinishReason, ModelType = enum_class("FinishReason"), enum_class("ModelType")
CapacitySchedulerPolicy, CommunicationMode = enum_class("CapacitySchedulerPolicy"), enum_class("CommunicationMode")
SamplingConfig = value_class("SamplingConfig", _sampling)
OutputConfig, Request = value_class("OutputConfig"), value_class("Request")
PromptTuningConfig = value_class("PromptTuningConfig", _tensor("embedding_table"))
MropeConfig = value_class("MropeConfig", _tensor("mrope_rotary_cos_sin"))
SchedulerConfig, KvCacheConfig = value_class("SchedulerConfig"), value_class("KvCacheConfig")
ParallelConfig, OrchestratorConfig = value_class("ParallelConfig"), value_class("OrchestratorConfig")
ExecutorConfig = value_class("ExecutorConfig")


class Result:
    def __init__(self, tokens: list[int], final: bool, reason: FinishReason, logits=None) -> None:
        self.output_token_ids, self.is_final, self.finish_reasons = [tokens], final, [reason]
        self.context_logits = logits


class Response:
    def __init__(self, request_id: int, result: Result | None = None, error: str | None = None) -> None:
        self.request_id, self._result, self._error = request_id, result, error

    def has_error(self) -> bool:
        return self._error is not None

    @property
    def error_msg(self) -> str:
        assert self._error is not None
        return self._error

    @property
    def result(self) -> Result:
        if self._error is not None:
            raise RuntimeError(f"[TensorRT-LLM][ERROR] {self._error}")
        return self._result
