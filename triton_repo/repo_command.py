"""`qwen3vl repo check`: is a model repository sound?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from triton_repo.repo_check import check_repository
from triton_repo.roles import Role

HELP = "check a model repository without a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="name everything that Triton would refuse, or that is missing")
    check.add_argument("path", type=Path, help="a build folder, for all that is composed in it, or a repository")


def run(args: argparse.Namespace) -> int:
    path = args.path.absolute()
    repositories = [path / role.folder for role in Role if (path / role.folder).is_dir()]
    return max(_check(repository) for repository in repositories or [path])


def _check(repository: Path) -> int:
    problems = check_repository(repository)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{repository}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    return 1 if problems else 0
