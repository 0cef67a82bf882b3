"""The prompt table of a batch (cpp/tensorrt_llm/batch_manager/promptTuningBuffers.cpp)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PromptTable:
    """One table on the GPU for all requests of a batch, each with its part; what a part does not use is zero.

    Attributes:
        rows: [max_table_size, hidden].
        task_vocab_size: rows of a part: the table's size divided by the batch.
    """

    def __init__(self, max_table_size: int, max_batch: int, hidden: int, dtype: torch.dtype) -> None:
        self.rows = torch.zeros(max_table_size, hidden, dtype=dtype)
        self.task_vocab_size = max_table_size // max_batch

    def fill(self, tables: Sequence[Tensor | None]) -> None:
        """Copy the requests' tables [rows, hidden] into the parts 0, 1, ...: the place in the batch is the task.

        Raises:
            RuntimeError: one does not fit; the whole batch fails with it.
        """
        self.rows.zero_()
        for task, table in enumerate(tables):
            if table is None:
                continue
            if len(table) > self.task_vocab_size:
                raise RuntimeError(f"Prompt vocab size{len(table)} is larger than max prompt vocab size of "
                                   f"{self.task_vocab_size}. ")
            if table.dtype != self.rows.dtype:
                raise RuntimeError("Request embedding table data type doesn't match model weight data type.")
            self.rows[task * self.task_vocab_size :][: len(table)] = table

    def packed_ids(self, token_ids: Tensor, task: int, vocab_size: int) -> Tensor:
        """Ids of one request's tokens that count the rows of the whole table (layers/embedding.py)."""
        return torch.where(token_ids >= vocab_size, token_ids + task * self.task_vocab_size, token_ids)
