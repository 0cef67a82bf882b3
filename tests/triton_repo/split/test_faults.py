"""Encode servers that are killed, come back, leave and join, while clients ask: every answer stays right."""

from __future__ import annotations

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from client.answer import Answer
from tests.support.pictures import gif, png
from tests.support.server import LiveServer
from tests.support.tcp_proxy import TcpProxy
from tests.triton_repo.split.conftest import SplitDeployment, open_files

SECONDS = 120
# Different images in each test: what is in the cache needs no encode server.
FIRST_SEED = itertools.count(10_000, 1000)


def questions(count: int) -> list[tuple[str, list[bytes], list[bytes]]]:
    """Text, images and videos mixed; no image occurs twice. Forty have more rows than the cache can keep."""
    seeds, asked = itertools.count(next(FIRST_SEED)), []
    for i in range(count):
        images = [png(next(seeds), 160 + 32 * (i % 4), 224) for _ in range((0, 1, 1, 2, 4)[i % 5])]
        videos = [gif(next(seeds))] if i % 7 == 0 else []
        asked.append((f"question {i}?", images, videos))
    return asked


def ask(server: LiveServer, question: tuple[str, list[bytes], list[bytes]]) -> Answer:
    return server.chat(timeout=SECONDS).ask(*question, max_tokens=6)


def answers_of(server: LiveServer, asked: list) -> list[Answer]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda question: ask(server, question), asked))


class Load:
    """A thread for each question, which asks it again and again, and compares.

    Attributes:
        done: answers that were right.
        wrong: what came instead of others.
    """

    def __init__(self, server: LiveServer, asked: list, expected: list[Answer]) -> None:
        self._server = server
        self.done, self.wrong = 0, []
        self._ending, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._loop, args=(question, answer), daemon=True)
                         for question, answer in zip(asked, expected, strict=True)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, more: int) -> None:
        """Wait until so many more have been answered, or some wrongly."""
        target, deadline = self.done + more, time.monotonic() + SECONDS
        while self.done < target and not self.wrong:
            assert time.monotonic() < deadline, f"still {self.done}"
            time.sleep(0.02)

    def end(self) -> None:
        """Let each thread finish what it has asked; all answers must be right."""
        self._ending.set()
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive(), "a request is stuck"
        assert self.wrong == []

    def _loop(self, question: tuple, expected: Answer) -> None:
        while True:
            try:
                got = ask(self._server, question)
            except Exception as error:
                got = error
            with self._lock:
                if got == expected:
                    self.done += 1
                else:
                    self.wrong.append((question[0], got, expected))
            if self._ending.is_set():
                return


class Weather:
    """Random faults on the way to encode servers, until `end`.

    Attributes:
        faults: how many there have been.
    """

    def __init__(self, proxies: list[TcpProxy], seed: int) -> None:
        self._proxies, self._random, self.faults = proxies, random.Random(seed), 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._ending.wait(self._random.uniform(0.05, 0.4)):
            proxy = self._random.choice(self._proxies)
            self.faults += 1
            match self._random.randrange(4):
                case 0:
                    proxy.break_all()
                case 1:
                    proxy.break_at = proxy.down_bytes + self._random.randrange(1, 100_000)  # within a block, mostly
                case 2:
                    proxy.frozen = True
                    time.sleep(self._random.uniform(0.05, 0.5))
                    proxy.frozen = False
                case 3:
                    proxy.delay = 0.01
                    time.sleep(self._random.uniform(0.05, 0.5))
                    proxy.delay = 0


def test_killed_encode_server_is_replaced_by_the_other_and_comes_back(live_server: LiveServer,
                                                                      split: SplitDeployment) -> None:
    asked = questions(40)
    expected = answers_of(live_server, asked)
    before = split.language.metrics()["encode_retries"]
    load = Load(split.language, asked, expected)
    split.language.wait_for(lambda metrics: metrics["encode_outstanding_rows"] > 0)
    split.hosts[0].kill()
    load.wait_for(len(asked))
    split.wait_for_hosts(1)
    split.hosts[0].start()
    split.hosts[0].wait_ready()
    split.wait_for_hosts(2)
    load.end()
    assert split.language.metrics()["encode_retries"] > before
    # It is used again.
    for question in questions(12):
        ask(split.language, question)
    split.hosts[0].server.wait_for(lambda metrics: metrics["images_encoded"] > 0)


def test_servers_leave_and_join_by_the_list_while_requests_run(live_server: LiveServer,
                                                               split: SplitDeployment) -> None:
    first, second = split.hosts
    asked = questions(30)
    load = Load(split.language, asked, answers_of(live_server, asked))
    load.wait_for(5)
    split.list_hosts([first])
    split.wait_for_hosts(1)
    load.wait_for(30)
    load.end()
    split.encoded()
    encoded = second.images()
    for question in questions(10):
        ask(split.language, question)
    split.encoded()
    assert second.images() == encoded
    split.list_hosts([first, second])
    split.wait_for_hosts(2)
    split.list_hosts([second])
    split.wait_for_hosts(1)
    for question in questions(5):
        ask(split.language, question)
    second.server.wait_for(lambda metrics: metrics["images_encoded"] > encoded)


def test_two_hundred_at_once_with_random_faults(live_server: LiveServer, split: SplitDeployment) -> None:
    asked = questions(200)
    expected = answers_of(live_server, asked)
    with ExitStack() as stack:
        proxies = [stack.enter_context(TcpProxy(host.address)) for host in split.hosts]
        split.use([proxy.url for proxy in proxies])
        files = open_files(split)
        weather = Weather(proxies, seed=1)
        stack.callback(weather.end)
        for host in split.hosts:
            load = Load(split.language, asked, expected)
            load.wait_for(20)
            host.kill()
            host.start()
            load.end()
            assert load.done >= 200
            # New images, which are not in the cache; the next host is killed when this one is back.
            asked = questions(200)
            expected = answers_of(live_server, asked)
            host.wait_ready()
        weather.end()
        assert weather.faults > 5
        split.wait_for_hosts(2)
        # Connections that broke are closed.
        deadline = time.monotonic() + SECONDS
        while open_files(split) > files + 10:
            assert time.monotonic() < deadline, f"{open_files(split)} open files, {files} before"
            time.sleep(0.2)


def test_server_that_hangs_is_left_for_the_other(live_server: LiveServer, split: SplitDeployment) -> None:
    asked = questions(10)
    expected = answers_of(live_server, asked)
    with TcpProxy(split.hosts[0].address) as proxy:
        split.use([proxy.url, split.hosts[1].address])
        proxy.frozen = True
        load = Load(split.language, asked, expected)
        load.end()
        split.wait_for_hosts(1)
        proxy.frozen = False
        split.wait_for_hosts(2)
