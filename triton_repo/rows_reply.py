"""The answer of `vision_encoder`: visual rows, together with the prompt that they are for.

Importable only in a process of the Python backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import triton_python_backend_utils as pb_utils

from engines.visual_rows import VisualRows
from triton_repo import backend
from triton_repo.repository import PROMPT

OnRows = Callable[[VisualRows | Exception], None]


def answer_with_rows(request: pb_utils.InferenceRequest,
                     start: Callable[[Mapping[str, np.ndarray], str, OnRows], None]) -> None:
    """Start a request's work; what comes of it, rows or an error, is its one response.

    Args:
        start: is given the request's tensors and its id, and what to call with the rows or an exception; or raises one.
    """
    inputs, sender = backend.inputs_of(request), request.get_response_sender()
    # What the decoder needs from preprocess goes along: see triton_repo.repository.
    prompt = {tensor.name: inputs[tensor.name] for tensor in PROMPT}

    def on_rows(rows: VisualRows | Exception) -> None:
        answer = (backend.error_response(rows) if isinstance(rows, Exception)
                  else backend.response({**prompt, "visual_rows": rows}))
        sender.send(answer, flags=backend.FINAL)

    try:
        start(inputs, request.request_id(), on_rows)
    except Exception as error:
        sender.send(backend.error_response(error), flags=backend.FINAL)
