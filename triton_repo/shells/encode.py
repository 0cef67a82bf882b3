"""Triton's entry point of `encode`."""

from triton_repo import backend
from triton_repo.handoff.sender import HandoffSender
from triton_repo.handoff.triton_requests import handle_requests
from triton_repo.split.encoding import EncodeService
from triton_repo.split.pairing import Pairing


class TritonPythonModel:
    def initialize(self, args):
        settings = backend.ModelSettings(args)
        self._service = EncodeService(settings.build, settings.number("threads"))
        description = Pairing.from_parameters(settings.parameters).description(settings.parameters["engine"])
        self._sender = HandoffSender(self._service.encode, description)
        self._metrics = backend.Metrics(
            {"qwen3vl_encode_waiting": "Images and videos being prepared or encoded",
             "qwen3vl_handoff_transfers": "Transfers to language servers that are not over",
             "qwen3vl_handoff_outstanding_rows": "Visual rows still to be encoded or sent",
             "qwen3vl_handoff_held_bytes": "Bytes of encoded rows that wait to be fetched"},
            {"qwen3vl_images_encoded": "Images and videos encoded",
             "qwen3vl_handoff_sent_bytes": "Bytes of visual rows sent",
             "qwen3vl_handoff_succeeded": "Transfers that succeeded",
             "qwen3vl_handoff_failed": "Transfers that failed"})
        self._reports = backend.Ticker(self._report)

    def execute(self, requests):
        handle_requests(self._sender, requests)

    def finalize(self):
        self._reports.close()
        self._sender.close()
        self._service.close()

    def _report(self):
        encoding, sending = self._service.stats(), self._sender.stats()
        self._metrics.update({
            "qwen3vl_encode_waiting": encoding.waiting,
            "qwen3vl_handoff_transfers": sending.transfers,
            "qwen3vl_handoff_outstanding_rows": sending.outstanding_rows,
            "qwen3vl_handoff_held_bytes": sending.held_bytes, "qwen3vl_images_encoded": encoding.images,
            "qwen3vl_handoff_sent_bytes": sending.sent_bytes, "qwen3vl_handoff_succeeded": sending.succeeded,
            "qwen3vl_handoff_failed": sending.failed})
