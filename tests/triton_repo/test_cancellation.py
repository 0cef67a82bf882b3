"""The way of a cancellation from postprocess to the decoder."""

from __future__ import annotations

import queue
import subprocess
import sys

from triton_repo.cancellation import CancellationListener, cancel, new_request_id

SECONDS = 30


def test_cancellation_reaches_the_listener_from_another_process() -> None:
    cancelled: queue.Queue[str] = queue.Queue()
    listener = CancellationListener(cancelled.put)
    request_id = new_request_id()
    code = "import sys; from triton_repo.cancellation import cancel; cancel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, listener.probe(request_id)], check=True, timeout=SECONDS)
    assert cancelled.get(timeout=SECONDS) == request_id


def test_listeners_have_addresses_of_their_own() -> None:
    first, second = queue.Queue(), queue.Queue()
    listeners = [CancellationListener(first.put), CancellationListener(second.put)]
    cancel(listeners[1].probe("b"))
    cancel(listeners[0].probe("a"))
    assert (first.get(timeout=SECONDS), second.get(timeout=SECONDS)) == ("a", "b")
    assert first.empty()
    assert second.empty()


def test_cancelling_without_a_decoder_does_nothing() -> None:
    cancel("qwen3vl-nobody/123")


def test_request_ids_cannot_be_guessed() -> None:
    ids = {new_request_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(request_id) == 32 for request_id in ids)
