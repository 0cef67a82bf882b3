"""Files measured in one place and prepared in another give what they give in one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwen3vl.errors import InvalidRequest
from qwen3vl.limits import Limits
from qwen3vl.processor import Processor
from qwen3vl.visual_files import IMAGE, VIDEO, VisualSettings
from tests.support.pictures import gif, png
from tests.support.processor_folder import make_processor_folder

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "image"},
                                         {"type": "text", "text": "?"}]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_processor_folder(tmp_path_factory.mktemp("processor"))


@pytest.fixture(scope="module")
def processor(folder: Path) -> Processor:
    return Processor.from_checkpoint(folder)


def sideways() -> bytes:
    exif, data = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.open(io.BytesIO(png(3, 64, 160))).convert("RGB").save(data, "JPEG", exif=exif)
    return data.getvalue()


def test_prompt_and_files_are_the_whole_request(processor: Processor, folder: Path) -> None:
    images, videos = [sideways(), png(1, 96, 64)], [gif(2)]
    whole = processor(MESSAGES, None, images, videos)
    prompt = processor.prompt(MESSAGES, None, images, videos)
    for name in ("token_ids", "position_ids", "rope_delta", "grids"):
        np.testing.assert_array_equal(getattr(prompt, name), getattr(whole, name))
    assert [file.name for file in prompt.files] == ["images[0]", "videos[0]", "images[1]"]
    # As another machine does it, which gets the bytes.
    elsewhere = VisualSettings.from_checkpoint(folder)
    opened = [elsewhere.open(part.file.kind, part.file.data, Limits()) for part in prompt.files]
    assert [file.kind for file in opened] == [IMAGE, VIDEO, IMAGE]
    assert [file.grid for file in opened] == [tuple(grid) for grid in whole.grids.tolist()]
    np.testing.assert_array_equal(np.concatenate([file.patches().pixels for file in opened]), whole.patches)


def test_pixels_of_images_are_not_looked_at_in_the_prompt(processor: Processor) -> None:
    truncated = png(1, 96, 64)[:-30]
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    assert processor.prompt(messages, images=[truncated]).grids.tolist() == [[1, 6, 4]]
    with pytest.raises(InvalidRequest, match=r"images\[0\]: the PNG image of 64x96 pixels is broken or truncated"):
        processor(messages, images=[truncated])


def test_first_broken_file_in_order_of_appearance_is_named(processor: Processor) -> None:
    broken = [png(seed, 96, 64)[:-30] for seed in range(2)]
    with pytest.raises(InvalidRequest, match=r"^images\[0\]: "):
        processor(MESSAGES, None, broken, [gif(2)])


def test_file_that_does_not_keep_to_its_header_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = VisualSettings.from_checkpoint(folder).open(IMAGE, sideways(), Limits())
    monkeypatch.setattr("qwen3vl.visual_files.upright_size", lambda image, data: (image.height, image.width))
    with pytest.raises(InvalidRequest, match="its header promised"):
        file.patches()
