"""Steps of a verification and what became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

Command = tuple[str, ...]


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        passed: whether it is as it should be.
        measured: the number, or what was found.
        limit: what was allowed, in the same unit; None where there is no number.
    """

    name: str
    passed: bool
    measured: float | str
    limit: float | str | None = None


@dataclass(frozen=True)
class Step:
    """Something to do and to look at.

    Attributes:
        name: of its record and log; unique.
        title: for people.
        commands: processes to run one after the other, until one fails; none where looking is all.
        look: finds the checks when they have ended, however they did; a step with none passes by exit codes alone.
        needs: steps without whose success this one makes no sense.
        makes: files that the commands write and `look` reads; they are removed first.
        judged: exit codes beside 0 with which the last command has ended well, but `look` has to judge.
    """

    name: str
    title: str
    commands: tuple[Command, ...] = ()
    look: Callable[[], list[Check]] | None = None
    needs: tuple[str, ...] = ()
    makes: tuple[Path, ...] = ()
    judged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        key: of everything that it depends on.
        seconds: how long it took.
        reason: why it failed or was not run; empty if it passed.
        log: file with the commands' output, relative to the report's folder; empty if there was none.
    """

    name: str
    title: str
    status: Status
    key: str = ""
    seconds: float = 0.0
    reason: str = ""
    log: str = ""
    commands: tuple[Command, ...] = ()
    checks: tuple[Check, ...] = field(default_factory=tuple)

    @classmethod
    def from_dict(cls, values: dict) -> Outcome:
        return cls(**{**values, "status": Status(values["status"]), "commands": tuple(map(tuple, values["commands"])),
                      "checks": tuple(Check(**check) for check in values["checks"])})
