"""`qwen3vl bench serve` on a real server: what it reports, what it leaves behind, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.serve.arrivals import poisson_arrivals
from bench.serve.load import LoadClient
from bench.serve.record import Record
from bench.serve.statistics import summarise
from bench.serve.workload import Range, RequestSet, Workload
from client.cli import main
from tests.support.server import ENDLESS, LIMITS, SLOTS, LiveServer

SMALL = ["--text-tokens", "10", "60", "--images", "0", "2", "--image-size", "64x64", "128x64", "--answer-tokens", "4",
         "12"]
SECONDS = 120


def bench(server: LiveServer, output: Path, *arguments: str) -> tuple[int, dict]:
    """Exit code and report."""
    code = main(["bench", "serve", str(server.build), "--url", server.grpc_url, "--metrics-url", server.metrics_url,
                 *SMALL, *arguments, "-o", str(output)])
    return code, json.loads(output.read_text())


def test_offered_loads_are_reported_and_answers_are_those_given_alone(live_server: LiveServer, tmp_path: Path,
                                                                      capsys: pytest.CaptureFixture) -> None:
    code, report = bench(live_server, tmp_path / "report.json", "--rate", "5", "20", "--requests", "12", "--verify")
    assert code == 0
    assert [load["offered"] for load in report["loads"]] == [5, 20]
    for load in report["loads"]:
        assert (load["answered"], load["errors"], load["interrupted"]) == (12, {}, False)
        assert 0 < load["first_token"]["p50"] <= load["first_token"]["p99"] <= load["total"]["largest"]
        assert load["gap"]["count"] > 12 and load["late"]["count"] == 12
        assert load["tokens_per_second"] > load["requests_per_second"] > 0
        assert load["prompt_tokens_per_second"] > 20 * load["requests_per_second"]
        assert load["memory_bytes"] > 100e6 and load["queued"] is not None
    assert (report["verification"]["compared"], report["verification"]["differences"]) == (24, [])
    assert report["left_over"] == {"queued": 0, "active": 0}
    assert report["server"]["limits"] == {**report["server"]["limits"], **LIMITS}
    # A token for each byte of a word and the space before it; one for each 32 x 32 pixels and two around them.
    assert 3 < report["calibration"]["tokens_per_word"] < 8
    assert report["calibration"]["image_tokens"] == [6, 10]
    assert (tmp_path / "report.png").exists() and (tmp_path / "report.server.png").exists()
    assert "of 24" in capsys.readouterr().out


def test_what_a_full_server_refuses_is_counted_apart(live_server: LiveServer) -> None:
    live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    fillers = [live_server.chat().stream(f"endless {i}", max_tokens=ENDLESS) for i in range(SLOTS + LIMITS["queue"])]
    live_server.wait_for(lambda metrics: metrics["decoder_queued_requests"] == LIMITS["queue"])
    requests = RequestSet(Workload(Range(5, 50), Range(0, 2), ((64, 64),)), tokens_per_word=5.0)
    seen: list[Record] = []
    run = LoadClient(live_server.grpc_url, requests).open_loop(poisson_arrivals(50.0, 12, seed=0), seen.append)
    for filler in fillers:
        filler.cancel()
    live_server.wait_for(lambda metrics: metrics["decoder_queued_requests"] + metrics["decoder_active_slots"] == 0)
    load = summarise(run, [], 50.0, None)
    assert (load.answered, load.errors, load.saturated) == (0, {"overloaded": 12}, True)
    assert load.messages["overloaded"].startswith("server busy: ")
    assert seen == run.records


def test_clients_that_hang_up_leave_nothing_behind(live_server: LiveServer, tmp_path: Path) -> None:
    def ended(metrics: dict[str, float]) -> float:
        # On a busy machine an answer can be complete before the server hears that its client is gone.
        return metrics["cancelled_requests"] + metrics["finished_requests"]

    before = live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    code, report = bench(live_server, tmp_path / "report.json", "--concurrency", "6", "--requests", "30",
                         "--disconnects", "0.5", "--answer-tokens", "300", "400")
    load, = report["loads"]
    assert code == 0
    assert (load["concurrency"], load["offered"], load["errors"]) == (6, None, {})
    assert load["hung_up"] > 5 and load["answered"] > 5 and load["hung_up"] + load["answered"] == 30
    assert report["left_over"] == {"queued": 0, "active": 0}
    after = live_server.wait_for(lambda metrics: ended(metrics) >= ended(before) + 30)
    assert after["failed_requests"] == before["failed_requests"]


def test_interrupted_it_writes_what_it_has_and_stops_the_server_it_started(live_build: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    process = subprocess.Popen([sys.executable, "-m", "client.cli", "bench", "serve", str(live_build), *SMALL,
                                "--concurrency", *["2"] * 99, "--requests", "20", "-o", str(output)],
                               stdout=subprocess.PIPE, text=True)
    rows = (line for line in process.stdout if "2 at a time" in line)
    assert next(rows, None), "no load was finished"
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130
    report = json.loads(output.read_text())
    assert report["interrupted"]
    assert report["loads"][0]["answered"] == 20 and len(report["loads"]) < 99


@pytest.mark.parametrize("url,message", [("127.0.0.1:1", "no Triton server answers over gRPC at 127.0.0.1:1"),
                                         ("http://127.0.0.1:8001", "expected host:port"),
                                         ("localhost", "expected host:port")])
def test_a_wrong_address_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture, url: str,
                                           message: str) -> None:
    assert main(["bench", "serve", "--url", url, "-o", str(tmp_path / "report.json")]) == 1
    assert message in capsys.readouterr().err


def test_the_address_of_http_is_said_to_be_no_grpc(live_server: LiveServer, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "serve", "--url", live_server.http_url, "-o", str(tmp_path / "report.json")]) == 1
    assert "which is not HTTP's" in capsys.readouterr().err


def test_a_workload_that_the_server_refuses_is_refused_before_it_starts(live_server: LiveServer, tmp_path: Path,
                                                                        capsys: pytest.CaptureFixture) -> None:
    # Without the build folder the limits are not known.
    assert main(["bench", "serve", "--url", live_server.grpc_url, "-o", str(tmp_path / "report.json")]) == 1
    assert "the limit prompt_tokens is 1000" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--requests", "0"], ["--rate", "-1"], ["--rate", "inf"], ["--concurrency", "0"],
                                   ["--disconnects", "1.5"], ["--seed", "-1"], ["--images", "3", "1"], []])
def test_wrong_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture, wrong: list[str]) -> None:
    assert main(["bench", "serve", *wrong, "-o", str(tmp_path / "report.json")]) == 1
    message = {0: "nothing to measure", 2: f"{wrong[:1]} is {wrong[-1:]}", 3: "from 3 to 1"}[len(wrong)]
    assert message.translate(str.maketrans("", "", "[']")) in capsys.readouterr().err
