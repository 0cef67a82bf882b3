"""The table of what `tensorrt_llm` and `tensorrt` offer (signatures/*.json), and binding of calls against it."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "signatures"
ROOTS = ("tensorrt", "tensorrt_llm")
KEYS = {"call", "returns", "type", "bases", "is", "module", "source", "version"}


@dataclass(frozen=True)
class Row:
    """One name; for the meaning of the fields see signatures/README.md."""

    name: str
    source: str
    version: str
    call: str | None = None
    returns: str = ""
    type: str | None = None
    bases: tuple[str, ...] = ()
    module: bool = False


class SignatureTable:
    def __init__(self, files: list[Path]) -> None:
        self.rows: dict[str, Row] = {}
        self.aliases: dict[str, str] = {}
        for file in files:
            for name, values in json.loads(file.read_text()).items():
                assert set(values) <= KEYS, f"{file.name}: {name} has unknown keys {set(values) - KEYS}"
                assert values.get("source") and values.get("version"), f"{file.name}: {name} names no source or version"
                assert name not in self.rows and name not in self.aliases, f"{file.name}: {name} is there twice"
                if "is" in values:
                    self.aliases[name] = values["is"]
                else:
                    self.rows[name] = Row(name, **{**values, "bases": tuple(values.get("bases", ()))})

    def find(self, name: str) -> Row | None:
        """The row of a dotted name, looked for in the bases of a class too."""
        name = self.aliases.get(name, name)
        if name in self.rows:
            return self.rows[name]
        owner, _, attribute = name.rpartition(".")
        owner = self.rows.get(self.aliases.get(owner, owner))
        rows = (self.find(f"{name}.{attribute}") for name in (owner.bases if owner else ()))
        return next((row for row in rows if row), None)

    def problem(self, name: str, positional: int = 0, keywords: tuple[str, ...] = (), *, open_ended: bool = False,
                called: bool = True) -> str | None:
        """What is wrong with a use of `name`, or None.

        Args:
            positional, keywords: the arguments of a call.
            open_ended: the call has `*args` or `**kwargs` too, which may bring what is missing.
            called: False where the name is only mentioned.
        """
        row = self.find(name)
        if row is None:
            return f"{name} is not in the signature table"
        if not called:
            return None
        if row.call is None:
            return f"{name} is called, but is not a function or class"
        bind = signature(row.call).bind_partial if open_ended else signature(row.call).bind
        try:
            bind(*range(positional), **dict.fromkeys(keywords))
        except TypeError as error:
            given = f"{positional} arguments and {', '.join(keywords) or 'no keywords'}"
            return f"{name}{row.call} is called with {given}: {error}"
        return None


@cache
def signature(call: str) -> inspect.Signature:
    """`(a, b=1, *, c)` as a signature; what the defaults are does not matter."""
    arguments = ast.parse(f"def f{call}: ...").body[0].args
    kinds, parameters = inspect.Parameter, []
    named = [*arguments.posonlyargs, *arguments.args]
    for index, argument in enumerate(named):
        kind = kinds.POSITIONAL_ONLY if index < len(arguments.posonlyargs) else kinds.POSITIONAL_OR_KEYWORD
        optional = index >= len(named) - len(arguments.defaults)
        parameters.append(kinds(argument.arg, kind, default=None if optional else kinds.empty))
    if arguments.vararg:
        parameters.append(kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(kinds(argument.arg, kinds.KEYWORD_ONLY, default=kinds.empty if default is None else None))
    if arguments.kwarg:
        parameters.append(kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(parameters)


@cache
def table() -> SignatureTable:
    return SignatureTable(sorted(FOLDER.glob("*.json")))
