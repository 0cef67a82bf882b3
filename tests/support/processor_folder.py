"""A processor folder for tests: byte-level BPE tokenizer, chat template and preprocessor settings.

The token ids are those of `tests.support.checkpoints`: byte b has id b, control tokens follow from 256 on, then come a
few merged tokens, so that where a text is cut before tokenising shows in its ids.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qwen3vl.tokenizer import byte_characters
from tests.support.checkpoints import make_config

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                  "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
MERGES = (("\n", "\n"), ("u", "s"), ("e", "r"), ("us", "er"), (" ", "t"), ("h", "e"), (" t", "he"), ("i", "n"),
          ("o", "n"), ("d", "s"), ("on", "ds"), (" ", "s"), ("e", "c"), ("W", "h"), (".", "\n"), (">", "\n"),
          (" ", " "), ("<", "|"), ("|", ">"), ("i", "m"))
TEXT_TOKENS = ("<tool_call>", "</tool_call>")  # added tokens that are ordinary text
VOCAB_SIZE = 300
# Splits text into words, single digits, punctuation and white space, like Qwen's tokenizers.
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")

# The structure of Qwen3-VL's published template, without its tool calls.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif part.type == 'video' or 'video' in part %}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

IMAGE_SETTINGS = {
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": 4096, "longest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}
VIDEO_SETTINGS = {
    **{name: IMAGE_SETTINGS[name] for name in ("patch_size", "temporal_patch_size", "merge_size", "image_mean",
                                               "image_std", "processor_class")},
    "video_processor_type": "Qwen3VLVideoProcessor", "size": {"shortest_edge": 4096, "longest_edge": 131072},
}


def make_tokenizer(*, normalise: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer of `VOCAB_SIZE` tokens at most; `normalise` turns on Qwen's NFC normalisation."""
    characters = {byte: character for character, byte in byte_characters().items()}

    def stand_in(text: str) -> str:
        return "".join(characters[byte] for byte in text.encode())

    merges = [(stand_in(left), stand_in(right)) for left, right in MERGES]
    tokens = [characters[byte] for byte in range(256)] + list(CONTROL_TOKENS)
    tokens += [left + right for left, right in merges] + list(TEXT_TOKENS)
    tokenizer = Tokenizer(models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=merges))
    if normalise:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TEXT_TOKENS])
    return tokenizer


def add_processor_files(folder: str | Path, *, image: dict | None = None, video: dict | None = None,
                        normalise: bool = False) -> Path:
    """Write tokenizer, chat template and preprocessor settings into a checkpoint folder and return it.

    Args:
        image, video: fields that differ from `IMAGE_SETTINGS` and `VIDEO_SETTINGS`.
        normalise: whether the tokenizer normalises text (NFC).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(normalise=normalise).save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    for name, values in (
            ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                                       "pad_token": "<|endoftext|>"}),
            ("preprocessor_config.json", {**IMAGE_SETTINGS, **(image or {})}),
            ("video_preprocessor_config.json", {**VIDEO_SETTINGS, **(video or {})})):
        (folder / name).write_text(json.dumps(values, indent=1))
    return folder


def make_processor_folder(folder: str | Path, **settings: dict | bool) -> Path:
    """A whole processor folder, of a model that has no weights: `add_processor_files` with its config.json."""
    folder = add_processor_files(folder, **settings)
    config = make_config()
    config.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [258, 256]}))
    return folder
