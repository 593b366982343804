"""Which cases of a parametrized test run: all, or a sample in which values still meet.

Every test with parameters is a sweep over their product. A fault shows where a value, or two values together, are
computed wrongly, so `sample` keeps every pair of values, in a case drawn by the seed, and `quick` a few cases, which
come with new values as long as there are some. A parameter of NUMBERS has no values of its own but counts drawn cases:
a share of those is kept.
"""

import itertools
import math
import random

# How many values must meet, which part of the numbered cases is drawn (but never fewer than FEWEST), and how many cases
# of one test run at most. `quick` leaves out what starts programs or trains, `slow` by its marker.
LEVELS = {"quick": (1, 1 / 32, 3), "sample": (2, 1 / 8, None)}
FEWEST = 8
NUMBERS = {"number", "seed"}


def sampled(items, level, seed):
    """Return the items of `items`, in their order, that run at this level and with this seed."""
    if level == "all":
        return list(items)
    if level == "quick":
        items = [item for item in items if item.get_closest_marker("slow") is None]
    kept = set()
    # By the name and not the neighbours: a case is drawn whichever files are collected with it.
    groups = {}
    for item in items:
        groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, group in groups.items():
        kept.update(map(id, _covering(group, level, random.Random(f"{seed} {name}"))))
    return [item for item in items if id(item) in kept]


def drawn(cases, level, rng):
    """Return some of a sequence of cases, in any order."""
    _, share, _ = LEVELS.get(level, (0, 1, None))
    return rng.sample(cases, min(len(cases), max(FEWEST, math.ceil(share * len(cases)))))


def _covering(group, level, rng):
    """Return items of one test in which values of different parameters that can meet do."""
    if len(group) == 1:
        return group
    strength, _, most = LEVELS[level]
    names = group[0].callspec.params
    columns = [_ranks(group, name) for name in names if name not in NUMBERS]
    numbers = [_ranks(group, name) for name in names if name in NUMBERS]
    values = _rows(columns, len(group))
    cases = list(zip(group, values, _rows(numbers, len(group)), strict=True))
    if numbers:
        chosen = set(drawn(sorted({case for _, _, case in cases}), level, rng))
        cases = [row for row in cases if row[2] in chosen]
    rng.shuffle(cases)
    places = list(itertools.combinations(range(len(columns)), min(strength, len(columns))))
    met, kept = set(), []
    for item, values, case in cases:
        meeting = {(place, tuple(values[i] for i in place)) for place in places} | {case}
        if not meeting <= met:
            met |= meeting
            kept.append(item)
    return kept[:most]


def _ranks(group, name):
    """Return a parameter's value in each item as a number, the same for the same object."""
    ranks = {}
    return [ranks.setdefault(id(item.callspec.params[name]), len(ranks)) for item in group]


def _rows(columns, count):
    return list(zip(*columns, strict=True)) if columns else [()] * count
