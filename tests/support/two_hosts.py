"""Two network namespaces with a cable between them: what crosses hosts, on one machine."""

from __future__ import annotations

import itertools
import os
import subprocess

LANGUAGE, ENCODE = "10.213.77.1", "10.213.77.2"
_COUNT = itertools.count()


class TwoHosts:
    """Use it as a context manager.

    Attributes:
        language, encode: names of the two namespaces, whose addresses are `LANGUAGE` and `ENCODE`.
    """

    def __init__(self) -> None:
        unique = f"{os.getpid() % 100_000}{next(_COUNT)}"
        self.language, self.encode = f"qwen3vl-l{unique}", f"qwen3vl-e{unique}"
        # Names of interfaces have 15 characters at most.
        self._cables = {self.language: f"ql{unique}", self.encode: f"qe{unique}"}

    def __enter__(self) -> TwoHosts:
        try:
            for host in (self.language, self.encode):
                _ip("netns", "add", host)
            _ip("link", "add", self._cables[self.language], "netns", self.language, "type", "veth", "peer", "name",
                self._cables[self.encode], "netns", self.encode)
            for host, address in ((self.language, LANGUAGE), (self.encode, ENCODE)):
                _ip("-n", host, "addr", "add", f"{address}/30", "dev", self._cables[host])
                _ip("-n", host, "link", "set", "lo", "up")
                _ip("-n", host, "link", "set", self._cables[host], "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in (self.language, self.encode):
            subprocess.run(["ip", "netns", "del", host], stderr=subprocess.DEVNULL, check=False)

    def plug(self, in_: bool) -> None:
        """Put the cable in, or pull it out."""
        _ip("-n", self.encode, "link", "set", self._cables[self.encode], "up" if in_ else "down")

    def limit(self, megabits: int) -> None:
        """Slow down what the encode side sends."""
        subprocess.run(["ip", "netns", "exec", self.encode, "tc", "qdisc", "replace", "dev", self._cables[self.encode],
                        "root", "tbf", "rate", f"{megabits}mbit", "burst", "64kbit", "latency", "500ms"], check=True)


def why_not() -> str | None:
    """Why there can be no namespaces here, if so."""
    try:
        with TwoHosts():
            return None
    except FileNotFoundError:
        return "there is no command `ip` (iproute2)"
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made here: {error.stderr.strip()}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
