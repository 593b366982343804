"""Changes to JSON that leave it JSON: what random bytes seldom do."""

import json
import random
from collections.abc import Callable
from typing import Any

VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, 0.5, 1e308, float("nan"), 2**31, 2**63, "", "x", "relu", "linear", "same",
    "causal", "channels_first", "float64", "float16", "mixed_bfloat16", "int8_from_float32", [], [[]], {}, [None, 3],
    [1, 2], [2, -1], {"class_name": "__tuple__", "items": [1, 2]}, {"class_name": "Zeros", "config": {}}, ["x", 0, 0],
    {"class_name": "__keras_tensor__", "config": {"keras_history": ["x", 0, 0]}}, "LSTM", "Dense", "Add", "InputLayer",
]  # fmt: skip
"""What is put in place of anything."""


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        keys = (
            list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        )
        for key in keys:
            found.append((one, key))
            waiting.append(one[key])
    return found


def mutate(data: bytes, most: int, seed: int, otherwise: Callable[[bytes, int], bytes]) -> bytes:
    """Return JSON with a change or several; what is none, and one of eight, is changed by `otherwise`."""
    rng = random.Random(seed)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return otherwise(data, most)
    places = _places(value)
    if not places or rng.random() < 0.125:
        return otherwise(data, most)
    for _ in range(1 + int(rng.expovariate(1))):
        container, key = rng.choice(places)
        if isinstance(container, dict) and key not in container:
            continue
        if isinstance(container, list) and key >= len(container):
            continue
        other, other_key = rng.choice(places)
        kind = rng.randrange(7)
        try:
            if kind == 0:
                del container[key]
            elif kind == 1:
                container[key] = other[other_key]
            elif kind == 2 and isinstance(container, dict):
                container[rng.choice([str(other_key), "name", "dtype", "mask"])] = container[key]
            elif kind == 3 and isinstance(container, list):
                container.insert(key, container[key])
            elif kind == 4 and isinstance(container[key], int):
                container[key] += rng.choice([-1, 1, 2, 100])
            else:
                container[key] = rng.choice(VALUES)
        except (KeyError, IndexError):
            continue
    try:
        changed = json.dumps(value).encode()
    except (ValueError, RecursionError):  # something was put into itself
        return data
    return changed if len(changed) <= most else data
