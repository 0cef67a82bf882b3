"""Inline `data:` URLs, the way OpenAI's chat format carries images."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from qwen3vl.errors import InvalidRequest


def is_data_url(data: bytes) -> bool:
    return data[:5].lower() == b"data:"


def data_url_bytes(url: str | bytes, what: str) -> bytes:
    """The content of a `data:` URL such as `data:image/png;base64,iVBORw0...` (RFC 2397).

    Args:
        what: what the URL stands for, for error messages: "image 0".

    Raises:
        InvalidRequest: another kind of URL (nothing is fetched), or broken base64.
    """
    encoded = url.encode() if isinstance(url, str) else url
    if not is_data_url(encoded):
        raise InvalidRequest(f"{what} is the URL {_shorten(encoded)}, and the server fetches nothing: send the file's "
                             "bytes with the request, or inline as data:<type>;base64,<bytes>")
    header, comma, body = encoded[5:].partition(b",")
    if not comma:
        raise InvalidRequest(f"{what} is the data URL {_shorten(encoded)} without a comma, expected "
                             "data:<type>;base64,<bytes>")
    if not header.lower().rstrip().endswith(b";base64"):
        return unquote_to_bytes(body)
    try:
        # Line breaks and percent-encoded padding occur in the wild; anything else outside the alphabet is an error.
        return base64.b64decode(b"".join(unquote_to_bytes(body).split()), validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"{what} is a data URL whose base64 content is broken: {error}") from None


def _shorten(url: bytes) -> str:
    text = url[:60].decode("utf-8", "replace")
    return repr(text + "..." if len(url) > 60 else text)
