"""Triton's entry point of `vision_encoder`."""

from triton_repo import backend
from triton_repo.repository import PROMPT
from triton_repo.vision_encoder import VisionService


class TritonPythonModel:
    def initialize(self, args):
        settings = backend.ModelSettings(args)
        self._service = VisionService(settings.build, settings.number("threads"))
        self._metrics = backend.Metrics({"qwen3vl_vision_engine_loaded": "Whether the vision engine is in memory"},
                                        {"qwen3vl_images_encoded": "Images and videos encoded"})

    def execute(self, requests):
        for request in requests:
            self._submit(backend.inputs_of(request), request.get_response_sender())

    def finalize(self):
        self._service.close()

    def _submit(self, inputs, sender):
        # What the decoder needs from preprocess goes along: see triton_repo.repository.
        prompt = {tensor.name: inputs[tensor.name] for tensor in PROMPT}

        def on_rows(rows):
            if isinstance(rows, Exception):
                sender.send(backend.error_response(rows), flags=backend.FINAL)
                return
            self._metrics.update({"qwen3vl_vision_engine_loaded": int(self._service.loaded),
                                  "qwen3vl_images_encoded": self._service.images})
            sender.send(backend.response({**prompt, "visual_rows": rows}), flags=backend.FINAL)

        try:
            self._service.submit(inputs["patches"], inputs["grids"], on_rows)
        except Exception as error:
            sender.send(backend.error_response(error), flags=backend.FINAL)
