"""What is known of a value in source code that is being read: whose class it has, or what it is the name of."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Named:
    """The thing of this name itself: a module, class or function."""

    name: str


@dataclass(frozen=True)
class Instance:
    name: str


@dataclass(frozen=True)
class Items:
    """A list, or something else to loop over."""

    name: str


@dataclass(eq=False)
class OwnClass:
    """A class of the file that was read; `vendor` are the vendor's classes that it derives from."""

    name: str
    vendor: list[str]
    own_bases: list[OwnClass]
    attributes: dict[str, object] = field(default_factory=dict)

    def lookup(self, attribute: str) -> tuple[bool, object]:
        if attribute in self.attributes:
            return True, self.attributes[attribute]
        return next((found for base in self.own_bases if (found := base.lookup(attribute))[0]), (False, None))

    def all_vendor(self) -> list[str]:
        return self.vendor + [name for base in self.own_bases for name in base.all_vendor()]


@dataclass(frozen=True)
class Own:
    """An instance of a class of the file, or its view as `super()`."""

    of: OwnClass
    is_super: bool = False


@dataclass(frozen=True)
class OwnFunction:
    returns: object


def typed(text: str) -> object:
    if not text:
        return None
    return Items(text[len("list["):-1]) if text.startswith("list[") else Instance(text)


def element_of(value: object) -> object:
    return Instance(value.name) if isinstance(value, Items) else None
