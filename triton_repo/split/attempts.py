"""What has been tried to get the rows of one image."""

from __future__ import annotations

from collections.abc import Mapping

from triton_repo.handoff.errors import Busy, Cancelled, EncodeFailed, HandoffError, TimedOut
from triton_repo.split.encode_server import ServerState

# Servers that fail at one image, after which it is given up: it may be the image that does it.
FAILURES = 5
# These say nothing against the image.
INNOCENT = (Busy, Cancelled, TimedOut)


class Attempts:
    """Attributes: `tried` are the servers that are not asked again for now."""

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self._errors: dict[str, HandoffError] = {}
        self._failures = 0

    @property
    def any(self) -> bool:
        """Whether any server was asked."""
        return bool(self._errors)

    def failed(self, url: str, error: HandoffError) -> None:
        """Note it.

        Raises:
            EncodeFailed: another attempt is not worth it.
        """
        self.tried.add(url)
        self._errors[url] = error
        self._failures += not isinstance(error, INNOCENT)
        if self._failures >= FAILURES:
            raise EncodeFailed(f"encoding was tried {self._failures} times and failed: {_listed(self._errors)}")

    def summary(self, states: Mapping[str, ServerState]) -> str:
        """Why there was nobody in time, given what is known of each server."""
        reasons = {url: self._errors.get(url) or state.problem or "it is as busy as the others, or has another engine"
                   for url, state in states.items()}
        return f"no encode server could take the image in time: {_listed(reasons)}; try again later"


def _listed(reasons: Mapping[str, object]) -> str:
    return "; ".join(f"{url}: {reason}" for url, reason in reasons.items())
