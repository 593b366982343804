"""Nested lists, tuples and dicts, the form of Keras's inputs, outputs and arguments."""

from collections.abc import Callable
from typing import Any

from fastrnn._types import Nested


def map_structure(function: Callable[[Any], Any], structure: Nested) -> Nested:
    """Return `structure` with `function` applied to what its lists, tuples and dicts hold."""
    if isinstance(structure, dict):
        return {key: map_structure(function, value) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_structure(function, value) for value in structure)
    return function(structure)


def flatten(structure: Nested) -> list[Any]:
    """Return what the lists, tuples and dicts (in their order) of `structure` hold, a list."""
    if isinstance(structure, dict):
        structure = list(structure.values())
    if isinstance(structure, (list, tuple)):
        return [leaf for part in structure for leaf in flatten(part)]
    return [structure]
