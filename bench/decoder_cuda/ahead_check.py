"""Steps that begin before the last one's tokens are known, beside the same steps one by one: the same tokens."""

from __future__ import annotations

import numpy as np

from bench.decoder_cuda.checks import require
from engines.batching.request import GenerationRequest
from engines.onnxruntime.cuda_decoder import CudaDecoder

STEPS = 40
# A sequence leaves behind each of these steps: the last one moves into its slot while the next step is computed.
LEAVING = {6: 0, 15: 1, 30: 0}
# Temperature, top_k and top_p of the sequences, in turn.
DRAWS = np.array([[0, 0, 1], [0.7, 20, 0.8], [1.2, 64, 1], [0.9, 5, 0.5]])


def draws_of(count: int) -> list[np.ndarray]:
    """For each step, float64 [count, 4]."""
    random = np.random.default_rng(3)
    parameters = DRAWS[np.arange(count) % len(DRAWS)]
    return [np.column_stack([parameters, random.random(count)]) for _ in range(STEPS)]


def tokens_of(decoder: CudaDecoder, requests: list[GenerationRequest], *, ahead: bool) -> list[list[int]]:
    """What the decoder chooses for each prompt, step by step, until its sequence leaves."""
    found, before, alive = [], None, list(range(len(requests)))
    for slot, request in enumerate(requests):
        ids = request.token_ids
        logits = decoder.prefill(slot, ids, request.position_ids, request.visual_rows, 0,
                                 np.array([len(ids) - 1], np.int32))
        found.append([int(logits[0].argmax())])
    lengths = np.array([len(request.token_ids) for request in requests], np.int32)
    deltas = np.array([request.rope_delta for request in requests], np.int32)
    for step, draws in enumerate(draws_of(len(requests))):
        rows = {sequence: row for row, sequence in enumerate(before[0])} if before else {}
        ids = [-1 - rows[sequence] if sequence in rows else found[sequence][-1] for sequence in alive]
        positions = lengths[alive] + deltas[alive]
        begun = decoder.begin_step(np.array(ids, np.int32), positions, lengths[alive] + 1, draws[alive])
        lengths[alive] += 1
        if before is not None:
            _read(*before, found)
        before = (list(alive), begun)
        if not ahead:
            _read(*before, found)
            before = None
        if step in LEAVING:
            slot, moved = LEAVING[step], alive.pop()
            if slot < len(alive):
                decoder.move_slot(len(alive), slot, int(lengths[moved]))
                alive[slot] = moved
    if before is not None:
        _read(*before, found)
    return found


def _read(sequences: list[int], begun, found: list[list[int]]) -> None:
    for sequence, token in zip(sequences, begun.chosen(), strict=True):
        found[sequence].append(token)


def check_ahead(decoder: CudaDecoder, requests: list[GenerationRequest]) -> str:
    """Compare both ways, twice. Returns what was found."""
    require(decoder.runs_ahead, "the decoder does not run ahead")
    expected = tokens_of(decoder, requests, ahead=False)
    for _ in range(2):
        tokens = tokens_of(decoder, requests, ahead=True)
        different = [sequence for sequence, pair in enumerate(zip(tokens, expected, strict=True)) if pair[0] != pair[1]]
        require(not different, f"sequences {different} of {len(requests)} have other tokens ahead than one by one")
    return f"{sum(map(len, expected))} tokens of {len(requests)} sequences, the same as one by one"
