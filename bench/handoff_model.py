"""`model.py` of a Triton model `encode` that has its rows ready: what is left is the hand-off."""

import json

import numpy as np

from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.sender import HandoffSender
from triton_repo.handoff.triton_requests import handle_requests


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        description = RowsDescription(**json.loads(parameters["description"]["string_value"]))
        tokens = int(parameters["tokens"]["string_value"])
        bits = np.random.default_rng(0).integers(0, 256, tokens * description.token_bytes, np.uint8)
        rows = bits.view(description.numpy_dtype).reshape(-1, description.hidden)

        def encode(task):
            task.deliver(rows[:description.tokens(task.job.grid) * description.rows_per_token])

        self._sender = HandoffSender(encode, description)

    def execute(self, requests):
        handle_requests(self._sender, requests)

    def finalize(self):
        self._sender.close()
