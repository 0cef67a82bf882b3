"""`qwen3vl ask` and `qwen3vl status` as a user runs them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.cli import COMMANDS, main, overview
from tests.support.pictures import gif, png
from tests.support.server import ENDLESS, LiveServer

SECONDS = 60


@pytest.fixture
def ask(live_server: LiveServer, capfd: pytest.CaptureFixture):
    """Run `qwen3vl ask` -> exit code, output, error output."""

    def run(*arguments: str, url: str | None = None) -> tuple[int, str, str]:
        address = url or (live_server.http_url if "--http" in arguments else live_server.grpc_url)
        code = main(["ask", *arguments, "--url", address])
        return code, *capfd.readouterr()

    return run


@pytest.mark.parametrize("way", [[], ["--http"], ["--no-stream"], ["--http", "--no-stream"]])
def test_answer_is_printed(ask, live_server: LiveServer, tmp_path: Path, way: list[str]) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "b.png").write_bytes(png(2))
    (tmp_path / "v.gif").write_bytes(gif(3))
    code, output, errors = ask("How many circles?", "--image", str(tmp_path / "a.png"), "--image",
                               str(tmp_path / "b.png"), "--video", str(tmp_path / "v.gif"), "--max-tokens", "20",
                               "--temperature", "1", "--seed", "4", "--usage", *way)
    answer = live_server.chat().ask("How many circles?", [png(1), png(2)], [gif(3)], max_tokens=20, temperature=1,
                                    seed=4)
    assert (code, output) == (0, answer.text + "\n")
    assert errors == f"{answer.usage.prompt_tokens} prompt tokens, 20 generated, ended by length\n"


def test_messages_are_json(ask, live_server: LiveServer) -> None:
    messages = '[{"role": "user", "content": "Hello"}]'
    expected = live_server.chat().ask("Hello", max_tokens=5).text + "\n"
    assert ask(messages, "--messages", "--max-tokens", "5")[1] == expected
    assert ask("[", "--messages")[0] == 2


@pytest.mark.parametrize("http", [[], ["--http"]])
def test_exit_codes(ask, http: list[str]) -> None:
    code, output, errors = ask("Hello", "--max-tokens", "0", *http)
    assert (code, output) == (2, "")
    assert errors.startswith("error: max_tokens is 0, expected")
    assert ask("Hello", "--image", "nowhere.png", *http)[0] == 2
    assert ask("Hello", *http, url="127.0.0.1:1")[0] == 3
    assert ask("Hello", "--max-tokens", str(ENDLESS), "--timeout", "0.3", *http)[0] == 5


@pytest.mark.parametrize("way", [[], ["--no-stream"]])
def test_interrupt_cancels_the_answer(live_server: LiveServer, way: list[str]) -> None:
    before = live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 0)
    command = [sys.executable, "-m", "client.cli", "ask", "Hello", "--url", live_server.grpc_url, "--max-tokens",
               str(ENDLESS), *way]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    live_server.wait_for(lambda metrics: metrics["decoder_active_slots"] == 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    live_server.wait_for(lambda metrics: metrics["cancelled_requests"] == before["cancelled_requests"] + 1)


def test_status_shows_models_and_slots(live_server: LiveServer, capsys: pytest.CaptureFixture) -> None:
    live_server.chat().ask("Hello", max_tokens=1)
    assert main(["status", "--url", live_server.http_url, "--metrics-url", live_server.metrics_url]) == 0
    output = capsys.readouterr().out
    assert "triton 2." in output
    assert "ready" in output.splitlines()[0]
    for name in ("preprocess", "vision_encoder", "decoder", "postprocess", "qwen3_vl_moe", "qwen3_vl_moe_whole"):
        line, = (line for line in output.splitlines() if line.split()[:2] == [name, "1"])
        assert line.split()[2] == "READY"
    line, = (line for line in output.splitlines() if line.startswith("decoder active slots"))
    assert line.split()[-1] == "0"
    ensemble, = (line for line in output.splitlines() if line.split()[:2] == ["qwen3_vl_moe", "1"])
    assert int(ensemble.split()[3]) >= 1


def test_status_without_a_server(capsys: pytest.CaptureFixture) -> None:
    assert main(["status", "--url", "127.0.0.1:1"]) == 1
    assert "error: no answer from http://127.0.0.1:1/v2" in capsys.readouterr().err


def test_status_of_something_else(live_server: LiveServer, capsys: pytest.CaptureFixture) -> None:
    assert main(["status", "--url", live_server.metrics_url]) == 1
    assert "error: " in capsys.readouterr().err


def test_overview_names_every_command(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert all(f"\n  {name} " in capsys.readouterr().out or name in overview() for name in COMMANDS)
    assert main(["sing"]) == 2
    assert "no command 'sing'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: qwen3vl {name}" in capsys.readouterr().out


def test_asking_needs_neither_torch_nor_an_engine() -> None:
    code = ("import sys; from client.cli import main; main(['ask', 'x', '--url', '127.0.0.1:1']); "
            "main(['ask', 'x', '--http', '--url', '127.0.0.1:1']); "
            "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'onnxruntime', 'tokenizers')))")
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False,
                          timeout=SECONDS).returncode == 0
