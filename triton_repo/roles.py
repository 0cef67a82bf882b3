"""What a server does of the work: all of it, vision encoding alone, or everything else."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """A server's share. Each has a model repository of its own in the build folder."""

    BOTH = "both"
    ENCODE = "encode"
    LANGUAGE = "language"

    @property
    def folder(self) -> str:
        """Name of its model repository."""
        return "triton_repo" if self is Role.BOTH else f"triton_repo-{self}"

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that it runs."""
        return {Role.BOTH: ("vision_encoder", "decoder"), Role.ENCODE: ("vision_encoder",),
                Role.LANGUAGE: ("decoder",)}[self]

    @property
    def option(self) -> str:
        """How commands are told, with a space before it; nothing for the default."""
        return "" if self is Role.BOTH else f" --role {self}"

    @classmethod
    def of_repository(cls, folder: str) -> Role:
        """The role of a model repository by its folder's name; any other name is taken for a whole server's."""
        return next((role for role in cls if role.folder == folder), cls.BOTH)
