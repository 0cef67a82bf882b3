"""Triton's entry point of `preprocess`."""

from triton_repo import backend
from triton_repo.preprocess import Preprocessor


class TritonPythonModel:
    def initialize(self, args):
        self._preprocess = Preprocessor(backend.ModelSettings(args).build)

    def execute(self, requests):
        return [backend.respond(self._preprocess, request) for request in requests]
