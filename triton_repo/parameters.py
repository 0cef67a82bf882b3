"""Request parameters: where the protocols put what is no input, such as a misspelt JSON field."""

from __future__ import annotations

from collections.abc import Mapping

from qwen3vl.errors import InvalidRequest
from triton_repo.repository import REQUEST


def refuse_parameters(parameters: Mapping[str, object]) -> None:
    """Everything a request can ask for is an input, so a parameter is a mistake.

    Raises:
        InvalidRequest: there is one; the message names it.
    """
    if parameters:
        names = ", ".join(repr(name) for name in sorted(parameters))
        raise InvalidRequest(f"unknown parameter {names}: the inputs are "
                             f"{', '.join(tensor.name for tensor in REQUEST)}")
