"""Triton's entry point of `preprocess` on a language server."""

from triton_repo import backend
from triton_repo.split.media import MediaPreprocessor


class TritonPythonModel:
    def initialize(self, args):
        self._preprocess = MediaPreprocessor(backend.ModelSettings(args).build)

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        try:
            return backend.response(self._preprocess(backend.inputs_of(request), backend.parameters_of(request)))
        except Exception as error:
            return backend.error_response(error)
