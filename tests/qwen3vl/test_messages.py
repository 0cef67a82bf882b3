"""The structure of chat messages is checked, with messages that say where it is wrong."""

import pytest

from qwen3vl.errors import InvalidRequest
from qwen3vl.messages import parse_messages

DATA_URL = "data:image/png;base64,AAAA"


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def test_visual_parts_in_order():
    conversation = parse_messages(user(
        {"type": "image"}, {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "high"}},
        {"type": "video"}, {"type": "image_url", "image_url": DATA_URL}, {"type": "image", "image": DATA_URL},
        {"type": "video_url", "video_url": {"url": "data:video/gif;base64,BB=="}}, {"type": "image", "url": DATA_URL},
        {"type": "image_url"}, {"type": "text", "text": "?"}))
    assert conversation.images == [None, DATA_URL, DATA_URL, DATA_URL, DATA_URL, None]
    assert conversation.videos == [None, "data:video/gif;base64,BB=="]
    kinds = [part["type"] for part in conversation.messages[0]["content"]]
    assert kinds == ["image", "image", "video", "image", "image", "video", "image", "image", "text"]
    assert list(conversation.texts()) == ["?"]


@pytest.mark.parametrize(("messages", "message"), [
    (None, "messages is None, expected a list"), ([], r"messages is \[\], expected a list of at least one"),
    ({"role": "user"}, "messages is .*, expected a list"), ("Hello", "messages is 'Hello', expected a list"),
    (["Hello"], r"messages\[0\] is 'Hello', expected an object with role and content"),
    ([{"content": "x"}], r"messages\[0\].role is None, expected one of system, user, assistant"),
    ([{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}], r"messages\[1\].role is 'tool'"),
    ([{"role": ["user"], "content": "x"}], r"messages\[0\].role is \['user'\]"),
    ([{"role": "user"}], r"messages\[0\].content is None, expected a string or a list of parts"),
    ([{"role": "user", "content": 7}], r"messages\[0\].content is 7"),
    ([{"role": "user", "content": {"type": "text"}}], r"messages\[0\].content is .*, expected a string or a list"),
    ([{"role": "user", "content": "x", "tool_calls": []}], r"messages\[0\] has the unknown field 'tool_calls'"),
    ([{"role": "user", "content": "\ud800"}], r"messages\[0\].content is not valid Unicode"),
    (user("x"), r"messages\[0\].content\[0\] is 'x', expected an object whose type is text, image, image_url"),
    (user({"text": "x"}), r"messages\[0\].content\[0\] is .*, expected an object whose type"),
    (user({"type": "audio"}), "expected an object whose type is text, image, image_url, video, video_url"),
    (user({"type": ["text"]}), "expected an object whose type"),
    (user({"type": "text"}), r"content\[0\].text is None, expected a string"),
    (user({"type": "text", "text": "\udfff"}), r"content\[0\].text is not valid Unicode"),
    (user({"type": "text", "text": "a", "image": "b"}), r"content\[0\] has the unknown field 'image'"),
    (user({"type": "image", "max_pixels": 3}), r"content\[0\] has the unknown field 'max_pixels'"),
    (user({"type": "image"}, {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}),
     r"content\[1\].image_url is the URL 'https://example.com/a.png', and the server fetches nothing"),
    (user({"type": "image", "image": "/etc/passwd"}), r"content\[0\].image is the URL '/etc/passwd'"),
    (user({"type": "image", "url": "file:///etc/passwd"}), "the server fetches nothing"),
    (user({"type": "video_url", "video_url": {"url": "http://x"}}), r"content\[0\].video_url is the URL"),
    (user({"type": "image_url", "image_url": {}}), r"content\[0\].image_url is {}, expected a data: URL"),
    (user({"type": "image", "image": DATA_URL, "url": DATA_URL}), r"content\[0\] has both image and url"),
    (user({"type": "image_url", "image_url": "data:\ud800"}), r"content\[0\].image_url is not valid Unicode"),
    (user({"type": "image", "\ud800": 1}), r"content\[0\] has the unknown field '\\ud800'"),
    (user({"type": "image_url", "image_url": 5}), r"content\[0\].image_url is 5, expected a data: URL"),
])
def test_invalid_structure(messages, message):
    with pytest.raises(InvalidRequest, match=message) as raised:
        parse_messages(messages)
    assert str(raised.value).encode()  # can be sent
