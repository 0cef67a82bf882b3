"""The Triton model that carries the hand-off: its name and tensors."""

from __future__ import annotations

from triton_repo.config_pbtxt import Tensor

ENCODE_MODEL = "encode"
# In and out alike: a message (see `messages`), and what travels beside it. The model is decoupled.
TENSORS = (Tensor("message", "UINT8", (-1,)), Tensor("payload", "UINT8", (-1,), optional=True))
