"""`encode_servers.txt`: where a language server finds its encode servers. Read again whenever it changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from export.build_folder import replacing
from qwen3vl.errors import ArtifactError

# A name, an IPv4 address or an IPv6 address in brackets; and the gRPC port.
ADDRESS = re.compile(r"([\w.-]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})")
HEADER = "# gRPC endpoints of encode servers, one a line. Running language servers follow changes within seconds.\n"


def read_servers(path: Path) -> tuple[str, ...]:
    """The addresses in a list, each once, in order; none if there is no file. "#" begins a comment.

    Raises:
        ArtifactError: a line is no host:port, or the file cannot be read.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    addresses = []
    for number, line in enumerate(lines, 1):
        if address := line.partition("#")[0].strip():
            _check(address, f"{path}, line {number}")
            addresses.append(address)
    return tuple(dict.fromkeys(addresses))


def write_servers(path: Path, addresses: Sequence[str]) -> None:
    """Write a list, whole or not at all.

    Raises:
        ArtifactError: an address is no host:port.
    """
    for address in addresses:
        _check(address, "--encode-server")
    with replacing(path) as temporary:
        temporary.write_text(HEADER + "".join(f"{address}\n" for address in dict.fromkeys(addresses)))


def _check(address: str, where: str) -> None:
    match = ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match.group(2)) < 65536:
        raise ArtifactError(f"{where}: {address!r} is no host:port of a gRPC endpoint, expected one such as "
                            "10.0.0.7:8001")
