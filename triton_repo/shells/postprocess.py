"""Triton's entry point of `postprocess`."""

from triton_repo import backend
from triton_repo.cancellation import cancel
from triton_repo.postprocess import Postprocessor


class TritonPythonModel:
    def initialize(self, args):
        self._postprocess = Postprocessor(backend.ModelSettings(args).build)

    def execute(self, requests):
        for request in requests:
            self._respond(request, request.get_response_sender())

    def _respond(self, request, sender):
        inputs = backend.inputs_of(request)
        if "probe" in inputs:
            if request.is_cancelled():
                cancel(inputs["probe"].item().decode())
            sender.send(flags=backend.FINAL)  # no response: the client sees nothing of it
            return
        try:
            answer = backend.response(self._postprocess(inputs))
        except Exception as error:
            answer = backend.error_response(error)
        sender.send(answer, flags=backend.FINAL)
