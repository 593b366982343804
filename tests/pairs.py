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
    waiting = {(a, b, i, j) for a, b in columns for i in range(sizes[a]) for j in range(sizes[b])}
    queue = sorted(waiting, key=lambda pair: (-sizes[pair[0]] * sizes[pair[1]], pair))
    cases = []
    for a, b, i, j in queue:
        if (a, b, i, j) not in waiting:
            continue
        candidates = rng.integers(0, sizes, (8, len(sizes)))
        candidates[:, [a, b]] = i, j
        met = [{(a, b, row[a], row[b]) for a, b in columns} for row in candidates.tolist()]
        best = max(range(len(met)), key=lambda n: len(met[n] & waiting))
        waiting -= met[best]
        chosen = zip(options.items(), candidates[best], strict=True)
        cases.append({name: values[n] for (name, values), n in chosen})
    return cases
