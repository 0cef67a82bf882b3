"""The last step: generated tokens to text. It keeps no state: the decoder sends only what can be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from qwen3vl.tokenizer import Tokenizer
from triton_repo.build_paths import BuildPaths


class Postprocessor:
    """Turns emissions of the decoder into answers."""

    def __init__(self, build: BuildPaths) -> None:
        self._token_bytes = Tokenizer.from_checkpoint(build.processor).token_bytes

    def __call__(self, emission: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Turn one emission (the tensors of `repository.EMISSION` without the probe) into `repository.ANSWER`."""
        tokens = b"".join(self._token_bytes[i] for i in emission["token_ids"].tolist())
        # A stop string may cut the last token.
        text = tokens[: int(emission["text_bytes"].item())].decode("utf-8", "replace")
        prompt_tokens, completion_tokens = emission["token_counts"].tolist()
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        return {"text": np.array([text.encode()], object), "finish_reason": emission["finish_reason"],
                "usage": np.array([json.dumps(usage).encode()], object)}
