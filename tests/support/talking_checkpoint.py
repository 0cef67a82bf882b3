"""A random checkpoint that never stops by itself, but says fixed sentences after certain tokens.

After a token of `SENTENCES` the answer is its sentence, byte by byte (no byte of a sentence has a token of its own that
makes up a whole character), then the end token. Everything else gets an endless, repeatable answer that depends on the
whole prompt, pictures included.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import TEXT, TOKEN_IDS, make_checkpoint
from tests.support.processor_folder import add_processor_files

# The last character of a raw prompt -> the answer. No byte occurs twice, so that each has one successor.
SENTENCES = {"@": "🙂é", "#": "大红花"}
CHINESE, EMOJI = "#", "@"

# Hidden states of these tokens are so long that no layer turns them much.
EMBEDDING_LENGTH = 100.0
# Enough for the successor, whose rivals know nothing of these directions; too little after any other token.
SUCCESSOR_GAIN = 1.0
# Batches of other sizes round otherwise, and may decide a tie between two experts otherwise: it shall not show.
EXPERT_GAIN = 0.02
# Room for answers that last as long as a test needs.
MAX_POSITIONS = 65536
WEIGHTS = "model.safetensors"
HIDDEN = TEXT["hidden_size"]


def make_talking_checkpoint(folder: Path) -> Path:
    """Write the checkpoint, processor files included, and return its folder."""
    add_processor_files(make_checkpoint(folder, text={"max_position_embeddings": MAX_POSITIONS}))
    tensors = load_file(folder / WEIGHTS)
    embedding, head = tensors["model.language_model.embed_tokens.weight"], tensors["lm_head.weight"]
    end = TOKEN_IDS["<|im_end|>"]
    # Orthogonal, so that no token of a sentence is taken for another.
    directions = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(1))).Q
    chains = [[*trigger.encode(), *sentence.encode()] for trigger, sentence in SENTENCES.items()]
    used = directions[: sum(map(len, chains))]
    head -= head @ used.T @ used
    successors = [(token, after) for chain in chains for token, after in zip(chain, [*chain[1:], end], strict=True)]
    # Nothing leads to an end or into a sentence but the sentences themselves.
    head[[TOKEN_IDS["<|endoftext|>"], *(chain[0] for chain in chains), *(after for _, after in successors)]] = 0
    for (token, after), direction in zip(successors, used, strict=True):
        embedding[token] = EMBEDDING_LENGTH * direction
        head[after] += SUCCESSOR_GAIN * direction
    tensors["model.language_model.norm.weight"].fill_(1)
    for name, tensor in tensors.items():
        if name.endswith("experts.down_proj"):
            tensor *= EXPERT_GAIN
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder
