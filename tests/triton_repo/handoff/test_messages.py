"""Messages: told apart by type, checked field by field, and by version before anything else."""

from __future__ import annotations

import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triton_repo.handoff import messages
from triton_repo.handoff.errors import ProtocolError, VersionMismatch
from triton_repo.handoff.wire import VERSION, decode_message, encode_message

EXAMPLES = [
    messages.Open("s", {"hidden": 32}, 5.0, "grpc", {"slot_bytes": 4096}),
    messages.Ping("s", 7),
    messages.Request("s", "t", 1, "r", "ab" * 32, "image", (1, 68, 120), ((1, 0, 0, 128), (2, 7, 128, 128))),
    messages.Resume("s", "t", 2),
    messages.Grant("t", 1, ((1, 0, 0, 128), (2, 5, 128, 100))),
    messages.Release("t"),
    messages.Cancel("t"),
    messages.Opened("s", "i", {}),
    messages.Rejected("version_mismatch", "ein Grund mit Umlauten: ä"),
    messages.Pong(7, "i", 3, 8160),
    messages.Accepted("t", 1),
    messages.Unknown("t", 2),
    messages.Ready("t", 1, "e", 2040, 8160, 2048, "BF16"),
    messages.Block("t", 1, "e", "ab" * 32, 1, 0, 0, 128, 512, 2048, "BF16", 2**64 - 1),
    messages.Failed("t", 1, "refused", "not a picture"),
    messages.Closed("t"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.type)
def test_every_message_comes_back(message: messages.Message) -> None:
    assert decode_message(encode_message(message)) == message


def test_examples_are_all_there_are() -> None:
    assert {type(message) for message in EXAMPLES} == set(messages.Message.types.values())


@pytest.mark.parametrize("version", [0, VERSION + 1, 60_000])
def test_version_is_told_before_anything_else(version: int) -> None:
    strange = struct.pack("<4sHxxII", b"QVLR", version, 3, 0) + b"what a later version has to say"
    with pytest.raises(VersionMismatch, match=f"version {version} .* this one {VERSION}"):
        decode_message(strange)


@given(st.integers(0, 10_000), st.integers(1, 255), st.sampled_from(EXAMPLES))
def test_any_damaged_byte_is_found(place: int, flip: int, message: messages.Message) -> None:
    data = bytearray(encode_message(message))
    place %= len(data)
    data[place] ^= flip
    if place in (6, 7):  # these two mean nothing
        return
    with pytest.raises((ProtocolError, VersionMismatch)):
        decode_message(bytes(data))


@given(st.binary(max_size=100))
def test_any_bytes_are_an_error(data: bytes) -> None:
    with pytest.raises((ProtocolError, VersionMismatch)):
        decode_message(data)


@pytest.mark.parametrize("values, text", [
    ({"type": "closed"}, r"has the fields \[\], expected \['transfer'\]"),
    ({"type": "closed", "transfer": "t", "more": 1}, r"\['more', 'transfer'\]"),
    ({"type": "closed", "transfer": 3}, "closed.transfer of a hand-off message is 3, expected str"),
    ({"type": "accepted", "transfer": "t", "attempt": True}, "accepted.attempt .* True, expected int"),
    ({"type": "grant", "transfer": "t", "attempt": 1, "blocks": [["x"]]}, "holds 'x', expected whole numbers"),
    ({"type": "grant", "transfer": "t", "attempt": 1, "blocks": 5}, "expected tuple"),
    ({"type": "no such"}, "no known type"),
    ({}, "no known type"),
    ([1], "no known type"),
    ("x", "no known type"),
])
def test_wrong_fields_are_named(values: object, text: str) -> None:
    body = json.dumps(values).encode()
    data = struct.pack("<4sHxxII", b"QVLR", VERSION, len(body), zlib.crc32(body)) + body
    with pytest.raises(ProtocolError, match=text):
        decode_message(data)
