"""Who belongs together: union-find over whatever says "the same picture" or "the same patient"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Groups:
    """Equivalence classes of the numbers 0 … n-1; `join` makes two one."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, item: int) -> int:
        """The number that stands for the item's group."""
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, a: int, b: int) -> None:
        """Put both items' groups together; the smaller number stands for them."""
        first, second = sorted((self.find(a), self.find(b)))
        self._parent[second] = first

    def members(self) -> list[list[int]]:
        """Every group as a sorted list, in the order of the first members."""
        found: dict[int, list[int]] = {}
        for item in range(len(self._parent)):
            found.setdefault(self.find(item), []).append(item)
        return list(found.values())


def name_groups(tokens: Sequence[Sequence[str]]) -> list[str]:
    """One group name an item: items that share a token are one group, and so are those linked over others.

    An item's tokens go from the most trusted (a name the user gave) to the least (a hash of pixels); the group takes
    the smallest of the most trusted tokens its members have. "" says nothing. Every item needs one token that does.
    """
    groups = Groups(len(tokens))
    first_with: dict[str, int] = {}
    for item, own in enumerate(tokens):
        for token in own:
            if token:
                groups.join(item, first_with.setdefault(token, item))
    names = [""] * len(tokens)
    for members in groups.members():
        name = _best(tokens[m] for m in members)
        for m in members:
            names[m] = name
    return names


def _best(tokens: Iterable[Sequence[str]]) -> str:
    return min((rank, token) for own in tokens for rank, token in enumerate(own) if token)[1]
