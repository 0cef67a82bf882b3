"""Random conversations about pictures, clips or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from models.tiny_shapes_training.chinese_emoji_questions import chinese_turn, emoji_turn
from models.tiny_shapes_training.clip_questions import clip_turn
from models.tiny_shapes_training.clips import draw_clip, random_clip
from models.tiny_shapes_training.files import clip_file, picture_file
from models.tiny_shapes_training.phrasing import Turn
from models.tiny_shapes_training.picture_questions import picture_turn
from models.tiny_shapes_training.scenes import draw, random_scene
from models.tiny_shapes_training.several_questions import several_turn
from models.tiny_shapes_training.text_questions import text_turn

# (width, height) in pixels
Size = tuple[int, int]
SYSTEM_MESSAGES = ("You are a helpful assistant.", "Answer questions about pictures of shapes.")


@dataclass(frozen=True)
class Media:
    """What the user shows first.

    Attributes:
        next_turn: a new question about it at each call, or None at times.
        pictures, clips: encoded files.
        visual_tokens: how many visual tokens they make at most, timestamps included.
    """

    next_turn: Callable[[Random], Turn | None]
    pictures: list[bytes] = field(default_factory=list)
    clips: list[bytes] = field(default_factory=list)
    visual_tokens: int = 0

    def turn(self, rng: Random) -> Turn:
        while (turn := self.next_turn(rng)) is None:
            pass
        return turn


def picture(rng: Random, size: Size) -> Media:
    scene = random_scene(rng)

    def next_turn(rng: Random) -> Turn | None:
        return rng.choices((picture_turn, chinese_turn, emoji_turn), (6, 1, 1))[0](rng, scene)

    return Media(next_turn, [picture_file(rng, draw(scene, *size))], visual_tokens=_tokens(size))


def several_pictures(rng: Random, sizes: Sequence[Size]) -> Media:
    scenes = [random_scene(rng, 1, 5) for _ in sizes]
    return Media(lambda rng: several_turn(rng, scenes),
                 [picture_file(rng, draw(scene, *size)) for scene, size in zip(scenes, sizes, strict=True)],
                 visual_tokens=sum(map(_tokens, sizes)))


def moving_picture(rng: Random, size: Size) -> Media:
    clip = random_clip(rng)
    return Media(lambda rng: clip_turn(rng, clip), clips=[clip_file(draw_clip(clip, *size), clip.fps)],
                 visual_tokens=4 * (_tokens(size) + 12))


def nothing() -> Media:
    return Media(text_turn)


def messages(rng: Random, media: Media, turns: Sequence[Turn]) -> list[dict]:
    """The conversation in the chat format; the last message is the last answer. Media stand in the first question,
    mostly before its text; one in ten conversations has a system message."""
    parts = [{"type": "image"}] * len(media.pictures) + [{"type": "video"}] * len(media.clips)
    text = {"type": "text", "text": turns[0].question}
    first = [*parts, text] if rng.random() < 0.85 else [text, *parts]
    conversation = [{"role": "system", "content": rng.choice(SYSTEM_MESSAGES)}] if rng.random() < 0.1 else []
    for i, turn in enumerate(turns):
        conversation += [{"role": "user", "content": turn.question if i or not parts else first},
                         {"role": "assistant", "content": turn.answer}]
    return conversation


def _tokens(size: Size) -> int:
    """Visual tokens of a picture and the two tokens around them."""
    return round(size[0] / 32) * round(size[1] / 32) + 2
