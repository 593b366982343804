"""Cases for sweeps."""

import itertools

import numpy as np


def pairwise(options, seed):
    """Return cases in which any two values of any two options meet at least once.

    Each case starts from a pair that has not met yet; the best of a few random completions joins.
    """
    rng = np.random.default_rng(seed)
    sizes = [len(values) for values in options.values()]
    columns = list(itertools.combinations(range(len(sizes)), 2))
    firsts, seconds = np.transpose(columns)
    # Each pair has a place in one array: those of the columns before it, then row by row of its own.
    widths = np.array(sizes)[seconds]
    starts = np.cumsum([0, *(np.array(sizes)[firsts] * widths)])[:-1]
    waiting = np.ones(sum(sizes[i] * sizes[j] for i, j in columns), bool)
    queue = [
        (start + i * sizes[b] + j, a, b, i, j)
        for start, (a, b) in zip(starts.tolist(), columns, strict=True)
        for i in range(sizes[a])
        for j in range(sizes[b])
    ]
    queue.sort(key=lambda pair: -sizes[pair[1]] * sizes[pair[2]])
    cases = []
    for place, first, second, i, j in queue:
        if not waiting[place]:
            continue
        candidates = rng.integers(0, sizes, (8, len(sizes)))
        candidates[:, [first, second]] = i, j
        met = starts + candidates[:, firsts] * widths + candidates[:, seconds]
        best = waiting[met].sum(axis=1).argmax()
        waiting[met[best]] = False
        chosen = zip(options.items(), candidates[best], strict=True)
        cases.append({name: values[n] for (name, values), n in chosen})
    return cases
