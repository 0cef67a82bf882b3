"""What an encode server is rid of when a transfer is over."""

import gc
import weakref

from tests.triton_repo.handoff.test_protocol import Protocol


def test_transfers_that_are_over_are_gone_without_the_garbage_collector() -> None:
    """It comes when so many objects have piled up, whatever files they hold."""
    protocol = Protocol()
    world = protocol.world
    gc.collect()
    gc.disable()
    try:
        protocol.begin([3, 3], 2, 3)
        protocol._exchange()
        transfers = [weakref.ref(transfer) for transfer in world.sender._transfers.values()]
        assert len(transfers) == 2
        world.encode(0)
        world.fail(0)
        protocol._settle()
        protocol._settle()
        assert world.sender.stats().transfers == 0
        assert [transfer() for transfer in transfers] == [None, None]
    finally:
        gc.enable()
