"""Triton's entry point of `vision_encoder` on a language server."""

from triton_repo import backend
from triton_repo.rows_reply import answer_with_rows
from triton_repo.split.media import media_of
from triton_repo.split.remote_vision import RemoteVision


class TritonPythonModel:
    def initialize(self, args):
        settings = backend.ModelSettings(args)
        self._service = RemoteVision.of_build(settings.build, settings.parameters)
        self._metrics = backend.Metrics(
            {"qwen3vl_encode_servers_listed": "Encode servers in the list",
             "qwen3vl_encode_servers_ready": "Encode servers that images can be sent to",
             "qwen3vl_encode_outstanding_rows": "Visual rows that encode servers have been asked for",
             "qwen3vl_row_cache_entries": "Images and videos in the cache of visual rows",
             "qwen3vl_row_cache_bytes": "Bytes in the cache of visual rows"},
            {"qwen3vl_images_fetched": "Images and videos that encode servers encoded",
             "qwen3vl_images_joined": "Images and videos that waited for rows another request was fetching",
             "qwen3vl_encode_retries": "Fetches that were tried once more",
             "qwen3vl_row_cache_hits": "Images and videos whose rows were in the cache",
             "qwen3vl_row_cache_misses": "Images and videos whose rows were not in the cache",
             "qwen3vl_row_cache_evictions": "Images and videos that left the cache for others"})
        self._reports = backend.Ticker(self._report)

    def execute(self, requests):
        for request in requests:
            answer_with_rows(request, self._start)

    def finalize(self):
        self._reports.close()
        self._service.close()

    def _start(self, inputs, request_id, on_rows):
        self._service.submit(media_of(inputs), request_id, on_rows)

    def _report(self):
        stats = self._service.stats()
        self._metrics.update({
            "qwen3vl_encode_servers_listed": stats.pool.listed, "qwen3vl_encode_servers_ready": stats.pool.ready,
            "qwen3vl_encode_outstanding_rows": stats.pool.outstanding_rows,
            "qwen3vl_row_cache_entries": stats.cache.entries, "qwen3vl_row_cache_bytes": stats.cache.bytes,
            "qwen3vl_images_fetched": stats.fetched, "qwen3vl_images_joined": stats.joined,
            "qwen3vl_encode_retries": stats.pool.retries, "qwen3vl_row_cache_hits": stats.cache.hits,
            "qwen3vl_row_cache_misses": stats.cache.misses, "qwen3vl_row_cache_evictions": stats.cache.evictions})
