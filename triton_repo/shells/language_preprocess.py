"""Triton's entry point of `preprocess` on a language server."""

from triton_repo import backend
from triton_repo.split.media import MediaPreprocessor


class TritonPythonModel:
    def initialize(self, args):
        self._preprocess = MediaPreprocessor(backend.ModelSettings(args).build)

    def execute(self, requests):
        return [backend.respond(self._preprocess, request) for request in requests]
