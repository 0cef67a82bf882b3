"""A language server whose encode servers are not there, or are not the right ones."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from client.errors import Busy
from tests.support.pictures import png
from tests.support.server import LiveServer
from tests.triton_repo.split.conftest import EncodeHost, SplitDeployment
from tests.triton_repo.test_live import IMAGE, prompt_inputs
from triton_repo.compose import compose
from triton_repo.repository import WHOLE, Options
from triton_repo.roles import Role
from triton_repo.split.server_list import write_servers

ENCODE_SECONDS = 2
SEEDS = itertools.count(600)


@pytest.fixture(scope="module")
def lonely_build(split_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build for a language server alone: it has no vision engine, and no encode servers yet."""
    build = Path(shutil.copytree(split_build, tmp_path_factory.mktemp("lonely") / "build",
                                 ignore=shutil.ignore_patterns("encode_servers.txt", "triton_repo*", "*.log")))
    shutil.rmtree(build / "engines/vision_encoder")
    compose(build, Options(slots=2, threads=1, preprocess_instances=1, whole_instances=1, row_cache_mib=1,
                           encode_seconds=ENCODE_SECONDS, transport="shared_memory"), role=Role.LANGUAGE)
    return build


@pytest.fixture(scope="module")
def lonely(lonely_build: Path) -> Iterator[LiveServer]:
    with LiveServer(lonely_build, Role.LANGUAGE).running() as server:
        yield server


def list_servers(server: LiveServer, *addresses: str) -> None:
    """Make it forget the servers that it has, and give it others."""
    for listed in ((), addresses):
        write_servers(server.build / "encode_servers.txt", listed)
        server.wait_for(lambda metrics, listed=listed: metrics["encode_servers_listed"] == len(listed))


def ask_text(server: LiveServer) -> str:
    return server.chat().ask([{"role": "user", "content": "hello"}], max_tokens=3).text


def image_error(server: LiveServer) -> str:
    """What an image gets that has not been seen before."""
    with pytest.raises(Busy) as error:
        server.chat().ask("What?", [png(next(SEEDS))], max_tokens=3)
    return str(error.value)


def test_text_is_served_and_images_are_told_why_not(lonely: LiveServer, split: SplitDeployment) -> None:
    list_servers(lonely)
    assert ask_text(lonely)
    assert "no encode server is listed in encode_servers.txt" in image_error(lonely)
    list_servers(lonely, "127.0.0.1:1", "nowhere.invalid:8001")
    started = time.monotonic()
    message = image_error(lonely)
    # It waits for one to appear, but not for ever.
    assert time.monotonic() - started >= ENCODE_SECONDS
    assert message.startswith("server busy: no encode server could take the image in time: 127.0.0.1:1: ")
    assert "nowhere.invalid:8001: " in message
    assert ask_text(lonely)
    with pytest.raises(InferenceServerException) as whole:
        grpc_client.InferenceServerClient(lonely.grpc_url).infer(WHOLE, prompt_inputs(IMAGE, images=[png(1)]))
    assert whole.value.status() == "StatusCode.UNAVAILABLE"
    # As soon as there is one, images are served.
    list_servers(lonely, split.hosts[0].address)
    lonely.wait_for(lambda metrics: metrics["encode_servers_ready"] == 1)
    assert lonely.chat().ask("What?", [png(1)], max_tokens=3).finish_reason == "length"


@pytest.fixture
def altered_host(split_build: Path, tmp_path: Path) -> Iterator:
    """Starts an encode server whose manifest is another one: by a function of it, which changes it."""
    hosts = []

    def start(change) -> EncodeHost:
        build = Path(shutil.copytree(split_build, tmp_path / "altered",
                                     ignore=shutil.ignore_patterns("triton_repo*", "*.log")))
        manifest = json.loads((build / "manifest.json").read_text())
        change(manifest)
        (build / "manifest.json").write_text(json.dumps(manifest))
        compose(build, Options(threads=1), role=Role.ENCODE)
        hosts.append(EncodeHost(build))
        hosts[-1].wait_ready()
        return hosts[-1]

    yield start
    for host in hosts:
        host.kill()


def test_server_of_another_checkpoint_is_not_used(lonely: LiveServer, altered_host) -> None:
    host = altered_host(lambda manifest: manifest["source"].update(fingerprint="another checkpoint"))
    list_servers(lonely, host.address)
    message = image_error(lonely)
    assert f"{host.address}: it is composed for other rows: checkpoint is another checkpoint, here " in message


def test_servers_with_different_engines_are_not_mixed(lonely: LiveServer, split: SplitDeployment,
                                                      altered_host) -> None:
    def another_engine(manifest: dict) -> None:
        manifest["artifacts"]["engines/vision_encoder"]["sha256"] = "another engine"

    host = altered_host(another_engine)
    list_servers(lonely, split.hosts[1].address)
    lonely.wait_for(lambda metrics: metrics["encode_servers_ready"] == 1)
    write_servers(lonely.build / "encode_servers.txt", [split.hosts[1].address, host.address])
    lonely.wait_for(lambda metrics: metrics["encode_servers_listed"] == 2)
    for seed in range(20, 26):
        lonely.chat().ask("What?", [png(seed)], max_tokens=1)
    time.sleep(1.5)  # in which it is asked how it does
    assert lonely.metrics()["encode_servers_ready"] == 1
    assert host.images() == 0
    # When the first engine's servers are gone, the other takes over, and the cache's rows are not used any more.
    list_servers(lonely, host.address)
    lonely.wait_for(lambda metrics: metrics["encode_servers_ready"] == 1)
    lonely.chat().ask("What?", [png(20)], max_tokens=1)
    host.server.wait_for(lambda metrics: metrics["images_encoded"] == 1)
