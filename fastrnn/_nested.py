"""Nested lists, tuples and dicts, the form of Keras's inputs, outputs and arguments."""

from collections.abc import Callable, Iterable
from typing import Any

from fastrnn._types import Nested


def map_structure(function: Callable[[Any], Any], structure: Nested) -> Nested:
    """Return `structure` with `function` applied to what its lists, tuples and dicts hold; the order is `flatten`'s."""
    if isinstance(structure, dict):
        mapped = {key: map_structure(function, structure[key]) for key in sorted(structure)}
        return {key: mapped[key] for key in structure}
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_structure(function, value) for value in structure)
    return function(structure)


def flatten(structure: Nested) -> list[Any]:
    """Return what the lists, tuples and dicts of `structure` hold, a list; as in Keras, dicts by their sorted keys."""
    if isinstance(structure, dict):
        structure = [structure[key] for key in sorted(structure)]
    if isinstance(structure, (list, tuple)):
        return [leaf for part in structure for leaf in flatten(part)]
    return [structure]


def unflatten(structure: Nested, leaves: Iterable[Any]) -> Nested:
    """Return `structure` with `leaves`, in the order of `flatten`, for what its lists, tuples and dicts hold."""
    rest = iter(leaves)
    return map_structure(lambda _: next(rest), structure)
