"""`model.py` of a Triton model `encode` that makes the rows of `tests.support.encode_jobs`.

Parameters: `description`, JSON of the rows; `settings`, JSON of the sender's; `fault`, one of `FAULTS`, what it does
wrong.
"""

import json
import threading

from tests.support.encode_faults import faulty
from tests.support.encode_jobs import encode
from triton_repo.handoff.job import RowsDescription
from triton_repo.handoff.sender import HandoffSender
from triton_repo.handoff.settings import SenderSettings
from triton_repo.handoff.triton_requests import TritonReply


class TritonPythonModel:
    def initialize(self, args):
        parameters = {name: value["string_value"] for name, value in
                      json.loads(args["model_config"])["parameters"].items()}
        description = RowsDescription(**json.loads(parameters["description"]))
        self._fault = parameters["fault"]
        self._sender = HandoffSender(
            lambda task: threading.Thread(target=encode, args=(task, description), daemon=True).start(), description,
            SenderSettings(**json.loads(parameters["settings"])))

    def execute(self, requests):
        for request in requests:
            tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            reply = faulty(self._fault, TritonReply(request.get_response_sender()))
            self._sender.handle(tensors["message"].tobytes(), tensors.get("payload"), reply)

    def finalize(self):
        self._sender.close()
