"""Triton's entry point of `vision_encoder`."""

from triton_repo import backend
from triton_repo.device_rows import DEVICE, PLACE
from triton_repo.patch_rows import patches_of_rows
from triton_repo.rows_reply import answer_with_rows
from triton_repo.vision_encoder import VisionService


class TritonPythonModel:
    def initialize(self, args):
        settings = backend.ModelSettings(args)
        self._service = VisionService(settings.build, settings.number("threads"),
                                      on_device=settings.parameters.get(PLACE) == DEVICE)
        self._metrics = backend.Metrics({"qwen3vl_vision_engine_loaded": "Whether the vision engine is in memory"},
                                        {"qwen3vl_images_encoded": "Images and videos encoded"})

    def execute(self, requests):
        for request in requests:
            answer_with_rows(request, self._start)

    def finalize(self):
        self._service.close()

    def _start(self, inputs, request_id, on_rows):
        def on_encoded(rows):
            if not isinstance(rows, Exception):
                self._metrics.update({"qwen3vl_vision_engine_loaded": int(self._service.loaded),
                                      "qwen3vl_images_encoded": self._service.images})
            on_rows(rows)

        grids = inputs["grids"]
        patches = patches_of_rows(inputs["patches"], inputs["rows_per_patch"], grids, self._service.config.vision)
        self._service.submit(patches, grids, on_encoded)
