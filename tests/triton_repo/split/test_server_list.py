"""The list of encode servers: what it may hold, and how it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwen3vl.errors import ArtifactError
from triton_repo.split.server_list import read_servers, write_servers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "encode_servers.txt"


def test_no_file_is_no_servers(path: Path) -> None:
    assert read_servers(path) == ()


def test_what_is_written_is_read(path: Path) -> None:
    write_servers(path, ["a-b.example:8001", "[::1]:9001", "10.0.0.7:65535", "a-b.example:8001"])
    assert read_servers(path) == ("a-b.example:8001", "[::1]:9001", "10.0.0.7:65535")
    write_servers(path, ["other:1"])
    assert read_servers(path) == ("other:1",)
    assert list(path.parent.iterdir()) == [path]


def test_comments_and_empty_lines(path: Path) -> None:
    path.write_text("# all\n\n  host:8001   # the first\n#off:8001\n")
    assert read_servers(path) == ("host:8001",)


@pytest.mark.parametrize("address", ["host", "host:", "host:0", "host:65536", "http://host:8001", "host:8001/x",
                                     "a b:1", "host:eight", "[::1:1"])
def test_wrong_address_is_named_with_its_line(path: Path, address: str) -> None:
    path.write_text(f"good:8001\n{address}\n")
    with pytest.raises(ArtifactError, match=rf"encode_servers\.txt, line 2: .*{address[:4].replace('[', '.')}"):
        read_servers(path)
    with pytest.raises(ArtifactError, match="no host:port"):
        write_servers(path, [address])
    assert path.read_text().startswith("good")


def test_file_that_is_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_servers(path)
