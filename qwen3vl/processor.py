"""A request's messages, images and videos -> what vision encoder and decoder take.

The token ids are those of the reference (`Qwen3VLProcessor`) but for the visual tokens: there each is a pad token, here
it has an id beyond the vocabulary that says where its visual rows are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qwen3vl.chat import ChatTemplate
from qwen3vl.config import ModelConfig
from qwen3vl.data_urls import data_url_bytes, is_data_url
from qwen3vl.errors import CheckpointError, InvalidRequest
from qwen3vl.limits import Limits
from qwen3vl.messages import check_text, parse_messages
from qwen3vl.positions import mrope_positions
from qwen3vl.tokenizer import Segment, Tokenizer
from qwen3vl.visual_files import IMAGE, VIDEO, ImageFile, VideoFile, VisualSettings

# A processor folder: these files of a checkpoint. Not all exist in every one: the chat template is in one of the last
# three, and `transformers` 5 puts the preprocessors' settings in one file.
PROCESSOR_FILES = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json",
                   "video_preprocessor_config.json", "processor_config.json", "tokenizer_config.json",
                   "chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class VisualFile:
    """An image or video of a request.

    Attributes:
        name: its place among the request's, for error messages: "images[0]".
        file: the file itself, opened.
    """

    name: str
    file: ImageFile | VideoFile


@dataclass(frozen=True)
class Prompt:
    """One request but for its pixels. Images and videos are in order of their appearance in the prompt.

    Attributes:
        token_ids: int32 [S]; visual token i of the request has the id vocab_size + rows_per_token * i.
        position_ids: int32 [3, S], temporal, row and column.
        rope_delta: position of the first generated token minus S.
        grids: int32 [n, 3], (t, h, w) in patches of each image and video.
        files: these.
    """

    token_ids: np.ndarray
    position_ids: np.ndarray
    rope_delta: int
    grids: np.ndarray
    files: tuple[VisualFile, ...]


@dataclass(frozen=True)
class ModelInputs:
    """One request, prepared: the first three and `grids` as in `Prompt`.

    Attributes:
        patches: uint8 [P, patch_dim], all images and videos one after the other.
    """

    token_ids: np.ndarray
    position_ids: np.ndarray
    rope_delta: int
    patches: np.ndarray
    grids: np.ndarray


class Processor:
    """Prepares requests for one model; safe to call from several threads."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, template: ChatTemplate, visual: VisualSettings,
                 limits: Limits) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.limits = limits
        self._template = template
        self._visual = visual
        self._longest_token = max(map(len, tokenizer.token_bytes))
        self._check_settings()

    @classmethod
    def from_checkpoint(cls, checkpoint: str | Path, limits: Limits | None = None) -> Processor:
        """Read a checkpoint or processor folder (see `PROCESSOR_FILES`).

        Raises:
            CheckpointError: a file is missing or broken, or they do not fit each other.
        """
        tokenizer = Tokenizer.from_checkpoint(checkpoint)
        return cls(ModelConfig.from_checkpoint(checkpoint), tokenizer,
                   ChatTemplate.from_checkpoint(checkpoint, tokenizer), VisualSettings.from_checkpoint(checkpoint),
                   limits or Limits())

    def __call__(self, messages: list | None = None, prompt: str | None = None, images: Sequence[bytes] = (),
                 videos: Sequence[bytes] = ()) -> ModelInputs:
        """Prepare one request, pixels included; arguments and errors as in `prompt`."""
        prepared = self.prompt(messages, prompt, images, videos)
        return ModelInputs(prepared.token_ids, prepared.position_ids, prepared.rope_delta, self.patches(prepared),
                           prepared.grids)

    def prompt(self, messages: list | None = None, prompt: str | None = None, images: Sequence[bytes] = (),
               videos: Sequence[bytes] = ()) -> Prompt:
        """Prepare one request but for its pixels: images are not decoded.

        Args:
            messages: chat messages (see `parse_messages`); the chat template turns them into the prompt.
            prompt: the prompt itself, instead of messages. Control tokens in it count; an image's place is
                `<|vision_start|><|image_pad|><|vision_end|>`, a video's the same with `<|video_pad|>`.
            images, videos: encoded files, or `data:` URLs, for the places that have no inline file of their own.

        Raises:
            InvalidRequest: anything about the request that cannot be served, limits included. Limits are checked on
                file headers and counts, before pixels are decoded.
        """
        segments, images, videos = self._render(messages, prompt, images, videos)
        self._check_counts(segments, images, videos)
        files = self._open(segments, images, videos)
        token_ids = np.array(self.tokenizer.encode_segments(self._expand(segments, files)), dtype=np.int32)
        if token_ids.size == 0:
            raise InvalidRequest("the prompt is empty, expected at least one token")
        self._check_length(token_ids.size)

        visual = np.isin(token_ids, (self.config.image_token_id, self.config.video_token_id))
        token_ids[visual] = self.config.text.vocab_size + self.config.rows_per_token * np.arange(np.sum(visual))
        grids = np.array([visual_file.file.grid for visual_file in files], dtype=np.int32).reshape(-1, 3)
        position_ids, rope_delta = mrope_positions(visual, grids, self.config.vision.spatial_merge_size)
        return Prompt(token_ids, position_ids, rope_delta, grids, tuple(files))

    def patches(self, prompt: Prompt) -> np.ndarray:
        """The pixels of a prepared request, as in `ModelInputs`.

        Raises:
            InvalidRequest: a file is broken; the first one is named.
        """
        parts = self.pixels(prompt)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, self.config.vision.patch_dim), dtype=np.uint8), *parts])

    def pixels(self, prompt: Prompt, *, repeated: bool = True) -> list[np.ndarray]:
        """The patches of each file; `repeated` as in `image_patches`. Errors as in `patches`."""
        parts = []
        for visual_file in prompt.files:
            with naming(visual_file.name):
                parts.append(visual_file.file.patches(repeated=repeated).pixels)
        return parts

    def _render(self, messages: list | None, prompt: str | None, images: Sequence[bytes],
                videos: Sequence[bytes]) -> tuple[list[Segment], list[bytes], list[bytes]]:
        """The prompt with one pad token for each image and video, and these in order."""
        if (messages is None) == (prompt is None):
            raise InvalidRequest(f"the request has {'neither' if prompt is None else 'both'} messages and prompt, "
                                 "expected one of them")
        if prompt is not None:
            check_text(prompt, "prompt")
            self._check_text_size(len(prompt))
            return self.tokenizer.split(prompt), list(images), list(videos)
        conversation = parse_messages(messages)
        self._check_text_size(sum(map(len, conversation.texts())))
        images = _fill(conversation.images, images, "image")
        videos = _fill(conversation.videos, videos, "video")
        return self._template.render(conversation), images, videos

    def _check_counts(self, segments: list[Segment], images: list[bytes], videos: list[bytes]) -> None:
        for name, files, pad, limit in (("image", images, self.config.image_token_id, self.limits.images),
                                        ("video", videos, self.config.video_token_id, self.limits.videos)):
            places = segments.count(pad)
            if places != len(files):
                raise InvalidRequest(f"the prompt has places for {_count(places, name)}, but the request has "
                                     f"{_count(len(files), name)} (some chat templates leave out {name}s in system "
                                     "messages)")
            if len(files) > limit:
                raise InvalidRequest(f"the request has {_count(len(files), name)}, the limit {name}s is {limit}")

    def _open(self, segments: list[Segment], images: list[bytes], videos: list[bytes]) -> list[VisualFile]:
        """Open the files in order of appearance, checking their sizes."""
        next_image, next_video = enumerate(images), enumerate(videos)
        files = []
        for segment in segments:
            if segment == self.config.image_token_id:
                files.append(self._open_file(IMAGE, *next(next_image)))
            elif segment == self.config.video_token_id:
                files.append(self._open_file(VIDEO, *next(next_video)))
        return files

    def _open_file(self, kind: str, i: int, data: bytes) -> VisualFile:
        name = f"{kind}s[{i}]"
        with naming(name):
            if not isinstance(data, bytes):
                raise InvalidRequest(f"a {type(data).__name__}, expected the bytes of a file")
            data = data_url_bytes(data, "the file") if is_data_url(data) else data
            return VisualFile(name, self._visual.open(kind, data, self.limits))

    def _expand(self, segments: list[Segment], files: list[VisualFile]) -> Iterator[Segment]:
        """Replace the pad token of each file by as many as it has visual tokens, those of videos frame by frame with
        the time before each."""
        remaining = iter(files)
        for segment in segments:
            if segment == self.config.image_token_id:
                yield from [segment] * next(remaining).file.tokens
            elif segment == self.config.video_token_id:
                file = next(remaining).file
                for seconds in file.timestamps:
                    yield f"<{seconds:.1f} seconds>"
                    yield self.config.vision_start_token_id
                    yield from [segment] * file.tokens
                    yield self.config.vision_end_token_id
            else:
                yield segment

    def _check_length(self, tokens: int) -> None:
        if tokens > self.limits.prompt_tokens:
            raise InvalidRequest(f"the prompt has {tokens} tokens, the limit prompt_tokens is "
                                 f"{self.limits.prompt_tokens}: send less text, or fewer or smaller images")

    def _check_text_size(self, characters: int) -> None:
        """Refuse what is too long for sure without tokenising it."""
        # A token has at most `_longest_token` bytes of text, whose normalisation may have made one character of four.
        most = 4 * self._longest_token * self.limits.prompt_tokens
        if characters > most:
            raise InvalidRequest(f"the prompt has {characters} characters, at most {most} can be within the limit "
                                 f"prompt_tokens = {self.limits.prompt_tokens}: send less text")

    def _check_settings(self) -> None:
        self._visual.check_fit(self.config.vision)
        controls = set(self.tokenizer.special_tokens.values())
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
            if getattr(self.config, name) not in controls:
                raise CheckpointError(f"config.json: {name} is {getattr(self.config, name)}, which is not a special "
                                      "token of tokenizer.json")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Say in an error which file of the request it is about."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error}") from None


def _fill(places: list[str | None], files: Sequence[bytes], name: str) -> list[bytes]:
    """Put the files sent with the request into the places without an inline one."""
    free = places.count(None)
    if free != len(files):
        raise InvalidRequest(f"the messages have places for {_count(free, name)}, but the request has "
                             f"{_count(len(files), name)}: each " + '{"type": "' + name + '"} part without inline data '
                             "takes the next one")
    remaining = iter(files)
    return [next(remaining) if url is None else url.encode() for url in places]


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
