"""The stand-in as the modules `tensorrt` and `tensorrt_llm`, with every use bound against the signature table."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from tests.engines.trtllm.signature_table import SignatureTable, signature, table
from tests.engines.trtllm.stand_in import builder, network, qwen, tensorrt, tensors
from tests.engines.trtllm.stand_in.builder import VERSION

MODULES = {
    "tensorrt": tensorrt, "tensorrt_llm._common": network, "tensorrt_llm.functional": tensors,
    "tensorrt_llm.builder": builder, "tensorrt_llm.plugin": network, "tensorrt_llm.models.modeling_utils": qwen,
    "tensorrt_llm.models.qwen.model": qwen}
PACKAGES = ("tensorrt_llm", "tensorrt_llm.models", "tensorrt_llm.models.qwen")


def install(monkeypatch: pytest.MonkeyPatch, *, version: str = VERSION, tensorrt_version: str | None = None) -> None:
    """Make `import tensorrt_llm` give the stand-in for the duration of a test.

    A module has the names that the table gives it and no others, and calls that do not bind against the table fail.
    """
    rows = table()
    for name in PACKAGES:
        package = ModuleType(name)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, name, package)
    sys.modules["tensorrt_llm"].__version__ = version
    for name, source in MODULES.items():
        module = ModuleType(name)
        for full, row in rows.rows.items():
            owner, _, attribute = full.rpartition(".")
            if owner == name and not row.module and hasattr(source, attribute):
                setattr(module, attribute, _bound(rows, full, getattr(source, attribute), monkeypatch))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["tensorrt"], "__version__", tensorrt_version or tensorrt.__version__)


def _bound(rows: SignatureTable, name: str, thing: object, monkeypatch: pytest.MonkeyPatch) -> object:
    """A function that checks its arguments first; a class whose methods do."""
    if inspect.isclass(thing):
        for full, row in rows.rows.items():
            owner, _, method = full.rpartition(".")
            if owner == name and row.call is not None and method in vars(thing):
                monkeypatch.setattr(thing, method, _checked(full, row.call, vars(thing)[method]))
        if rows.rows[name].call is not None and "__init__" in vars(thing) and f"{name}.__init__" not in rows.rows:
            monkeypatch.setattr(thing, "__init__", _checked(name, rows.rows[name].call, thing.__init__))
        return thing
    call = rows.rows[name].call
    return thing if call is None else _checked(name, call, thing, is_method=False)


def _checked(name: str, call: str, function: Callable, *, is_method: bool = True) -> Callable:
    if isinstance(function, classmethod):
        return classmethod(_checked(name, call, function.__func__))

    @functools.wraps(function)
    def checked(*args, **kwargs):
        try:
            signature(call).bind(*args[is_method:], **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}{call}: {error}") from None
        return function(*args, **kwargs)

    return checked
