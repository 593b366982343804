"""Rows drawn by a fixed seed from all that users choose: ``python -m benchmarks.draw`` prints them.

They are a sample that nobody picked, so that what holds for them holds for other sizes. `draw.txt` lists them; a test
compares it with what is drawn.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

from benchmarks.configurations import Configuration, single

SEED = 4
ROWS = 80
CELLS = "rnn", "lstm", "gru"
UNITS = 8, 16, 20, 32, 50, 64, 100, 128, 200, 256, 300, 512, 650, 1024
BATCHES = 1, 2, 4, 7, 32, 64, 256
TIMESTEPS = 1, 10, 100, 1000
FEATURES = 1, 3, 13, 40, 128, 300

Value = TypeVar("Value", int, str)


def equally(values: Sequence[Value], count: int, generator: random.Random) -> list[Value]:
    """Draw `count` of `values` in random order, no value more than once oftener than another."""
    drawn: list[Value] = []
    while len(drawn) < count:
        drawn += generator.sample(values, min(len(values), count - len(drawn)))
    generator.shuffle(drawn)
    return drawn


def draw(rows: int = ROWS, seed: int = SEED) -> tuple[Configuration, ...]:
    """Draw single layers that differ, in the order of cell, units, features, batch and timesteps."""
    generator = random.Random(seed)
    columns = [
        equally(values, rows, generator) for values in (CELLS, FEATURES, UNITS, BATCHES, TIMESTEPS)
    ]
    drawn = sorted(
        set(zip(*columns, strict=True)), key=lambda row: (CELLS.index(row[0]), row[2], row)
    )
    return tuple(single(*row) for row in drawn)


DRAWN = draw()

if __name__ == "__main__":
    print(*(configuration.name for configuration in DRAWN), sep="\n")
