"""What is sent and encoded, and what is not: text, repeated images, simultaneous ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from client.status import read_status
from client.status_command import describe
from tests.support.pictures import gif, png
from tests.triton_repo.split.conftest import OPTIONS, SplitDeployment


def test_text_asks_no_encode_server(split: SplitDeployment) -> None:
    before = [host.server.metrics()["handoff_succeeded"] for host in split.hosts]
    for i in range(3):
        split.language.chat().ask(f"hello {i}", max_tokens=3)
    assert [host.server.metrics()["handoff_succeeded"] for host in split.hosts] == before


def test_repeated_image_is_neither_encoded_nor_sent_again(split: SplitDeployment) -> None:
    before, encoded = split.language.metrics(), split.encoded()
    for i in range(4):
        split.language.chat().ask(f"question {i}", [png(200)], [gif(201)], max_tokens=3)
    after = split.language.wait_for(lambda metrics: metrics["row_cache_hits"] == before["row_cache_hits"] + 6)
    assert after["images_fetched"] - before["images_fetched"] == 2
    assert after["row_cache_misses"] - before["row_cache_misses"] == 2
    assert split.encoded() - encoded == 2


def test_cache_is_bounded(split: SplitDeployment) -> None:
    before = split.language.metrics()
    # 224 x 224 pixels make 49 tokens of 4 rows of 64 numbers: twenty-one such images fill the cache.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: split.language.chat().ask("?", [png(seed, 224, 224)], max_tokens=1),
                      range(300, 330)))
    after = split.language.wait_for(lambda metrics: metrics["images_fetched"] == before["images_fetched"] + 30)
    assert after["row_cache_evictions"] > before["row_cache_evictions"]
    assert 0 < after["row_cache_bytes"] <= OPTIONS.row_cache_mib * 2**20


def test_simultaneous_requests_for_one_image_share_one_encode(split: SplitDeployment) -> None:
    encoded, before = split.encoded(), split.language.metrics()
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda i: split.language.chat().ask("What?", [png(400, 160, 160)], max_tokens=8),
                                range(24)))
    assert len({answer.text for answer in answers}) == 1
    assert split.encoded() - encoded == 1
    after = split.language.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    shared = [after[name] - before[name] for name in ("images_joined", "row_cache_hits")]
    assert sum(shared) == 23


def test_images_are_spread_over_encode_servers(split: SplitDeployment) -> None:
    before = [host.images() for host in split.hosts]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: split.language.chat().ask("?", [png(seed)], max_tokens=1), range(500, 540)))
    split.encoded()
    done = [host.images() - start for host, start in zip(split.hosts, before, strict=True)]
    assert sum(done) == 40
    # A server that is slow for a while gets fewer, but never none while eight images are under way.
    assert min(done) >= 2


def test_status_knows_both_kinds(split: SplitDeployment) -> None:
    language, encode = (describe(read_status(server.http_url, server.metrics_url, 10))
                        for server in (split.language, split.hosts[0].server))
    assert "ready, language server" in language.splitlines()[0]
    assert "encode servers ready" in language
    assert "ready, encode server" in encode.splitlines()[0]
    assert "images encoded" in encode
