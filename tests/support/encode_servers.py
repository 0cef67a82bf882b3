"""Encode servers for tests of the hand-off: real tritonservers whose model makes made-up rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from bench.one_model_server import OneModelServer
from tests.support.encode_jobs import DESCRIPTION
from triton_repo.config_pbtxt import PythonModel
from triton_repo.handoff.job import RowsDescription
from triton_repo.repository import ENCODE, HANDOFF

CODE = Path(__file__).with_name("encode_model.py")


def encode_server(folder: Path, fault: str = "", description: RowsDescription = DESCRIPTION,
                  settings: dict | None = None, **place: object) -> OneModelServer:
    """A server whose model is `tests.support.encode_model`.

    Args:
        fault: a key of `encode_faults.FAULTS`.
        settings: the sender's, where they differ from `SenderSettings`.
        place: see `OneModelServer`.
    """
    message, payload = HANDOFF
    parameters = {"description": json.dumps(dataclasses.asdict(description)), "fault": fault,
                  "settings": json.dumps(settings or {})}
    model = PythonModel(ENCODE, (message, dataclasses.replace(payload, optional=True)), HANDOFF, decoupled=True,
                        parameters=parameters)
    return OneModelServer(folder, model, CODE, **place)
