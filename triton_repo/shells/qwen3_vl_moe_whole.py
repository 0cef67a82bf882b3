"""Triton's entry point of `qwen3_vl_moe_whole`."""

from triton_repo import backend
from triton_repo.whole import ForwardedError, WholeForwarder


class TritonPythonModel:
    def initialize(self, args):
        self._forward = WholeForwarder()

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def finalize(self):
        self._forward.close()

    def _respond(self, request):
        try:
            return backend.response(self._forward(backend.inputs_of(request), backend.parameters_of(request),
                                                  request.is_cancelled))
        except ForwardedError as error:
            return backend.coded_error(error.code, str(error))
        except Exception as error:
            return backend.error_response(error)
