"""Triton's entry point of `decoder`."""

import numpy as np

from engines.batching.request import GenerationRequest
from engines.decoder_batcher import DecoderSettings
from qwen3vl.sampling import SamplingParams
from triton_repo import backend
from triton_repo.decoder import DecoderService


class TritonPythonModel:
    def initialize(self, args):
        settings = backend.ModelSettings(args)
        self._metrics = backend.Metrics(
            {"qwen3vl_decoder_active_slots": "Requests being served",
             "qwen3vl_decoder_queued_requests": "Requests waiting for a slot"},
            {"qwen3vl_prompt_tokens": "Prompt tokens processed",
             "qwen3vl_generated_tokens": "Tokens generated",
             "qwen3vl_finished_requests": "Requests answered to the end",
             "qwen3vl_cancelled_requests": "Requests whose client went away",
             "qwen3vl_failed_requests": "Requests that failed in the decoder",
             "qwen3vl_device_row_bytes": "Bytes of visual rows that came in the GPU's memory",
             "qwen3vl_host_row_bytes": "Bytes of visual rows that came in the host's memory"})
        self._service = DecoderService(settings.build, DecoderSettings(
            settings.number("slots"), settings.number("threads"), settings.number("stall_ms") / 1000,
            settings.number("cache_percent") / 100), self._report)

    def execute(self, requests):
        for request in requests:
            self._submit(request, request.get_response_sender())

    def finalize(self):
        self._service.close()

    def _submit(self, request, sender):
        reply = SenderReply(sender)
        try:
            inputs = backend.inputs_anywhere(request)
            sampling, rows = SamplingParams.from_json(inputs["sampling"].item()), inputs["visual_rows"]
            generation = GenerationRequest(inputs["token_ids"], inputs["position_ids"],
                                           int(inputs["rope_delta"].item()), self._service.own(rows), sampling)
        except Exception as error:
            reply.fail(error)
            return
        self._service.submit(generation, reply)

    def _report(self, stats):
        self._metrics.update({
            "qwen3vl_decoder_active_slots": stats.active_slots, "qwen3vl_decoder_queued_requests": stats.queued,
            "qwen3vl_prompt_tokens": stats.prompt_tokens, "qwen3vl_generated_tokens": stats.generated_tokens,
            "qwen3vl_finished_requests": stats.finished, "qwen3vl_cancelled_requests": stats.cancelled,
            "qwen3vl_failed_requests": stats.failed,
            "qwen3vl_device_row_bytes": self._service.device_row_bytes,
            "qwen3vl_host_row_bytes": self._service.host_row_bytes})


class SenderReply:
    """The way back through a response sender of Triton."""

    def __init__(self, sender):
        self._sender = sender

    def send(self, emission):
        tensors = {
            "token_ids": emission.token_ids, "text_bytes": np.array([emission.text_bytes], np.int32),
            "finish_reason": np.array([emission.finish_reason.encode()], object),
            "token_counts": np.array([emission.prompt_tokens, emission.completion_tokens], np.int32)}
        self._sender.send(backend.response(tensors), flags=backend.FINAL if emission.finish_reason else 0)

    def fail(self, error):
        self._sender.send(backend.error_response(error), flags=backend.FINAL)

    def probe(self, probe):
        self._sender.send(backend.response({"probe": np.array([probe.encode()], object)}))

    def cancelled(self):
        return self._sender.is_cancelled()
