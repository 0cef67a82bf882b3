"""The comparison of a whole and a split server, on a small build."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.server import LIMITS
from triton_repo.compose import compose
from triton_repo.repository import Options
from triton_repo.roles import Role


def test_report_has_every_load_of_both_deployments(live_build: Path, tmp_path: Path) -> None:
    build = Path(shutil.copytree(live_build, tmp_path / "build", ignore=shutil.ignore_patterns("onnx", "triton_repo*")))
    for role in Role:
        compose(build, Options(slots=2, threads=1, preprocess_instances=1, whole_instances=1), LIMITS, role)
    (build / "encode_servers.txt").write_text("# of somebody else\nhost:1\n")
    report = tmp_path / "results/report.json"
    arguments = ["--images", "1", "2", "--clients", "2", "--text-every", "3", "--requests", "6", "--tokens", "3",
                 "--side", "96", "--rounds", "1"]
    result = subprocess.run([sys.executable, "-m", "bench.split", str(build), "-o", str(report), *arguments],
                            capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    measured = json.loads(report.read_text())["measured"]
    assert [(each["deployment"], each["load"]["images"]) for each in measured] == [
        ("whole", 1), ("whole", 2), ("split", 1), ("split", 2)]
    for each in measured:
        assert min(each["image_first"][0], each["text_first"][0], each["tokens_per_second"]) > 0
        # Four of six requests have images; each answer has three tokens.
        rate = 4 * each["load"]["images"] / each["seconds"]
        assert abs(each["images_per_second"] - rate) < 1e-6 * rate
        assert abs(each["tokens_per_second"] * each["seconds"] - 18) < 1e-6
    assert report.with_suffix(".png").stat().st_size > 10_000
    assert (build / "encode_servers.txt").read_text() == "# of somebody else\nhost:1\n"
    assert sorted(path.name for path in report.parent.iterdir()) == ["report.json", "report.png"]
