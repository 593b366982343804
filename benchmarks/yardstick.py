"""A fixed workload of NumPy and BLAS, to measure other times by: a ratio to it holds on another machine.

It does what a recurrent layer does (products of a matrix with a vector and with a batch, activations) and what a call
from Python costs.
"""

import time

import numpy as np

_generator = np.random.default_rng(0)
_matrix = _generator.uniform(-0.1, 0.1, (256, 256)).astype(np.float32)
_batch = _generator.uniform(-1, 1, (32, 256)).astype(np.float32)
_few = np.ones(4, np.float32)


def work() -> None:
    """Do it once: some 0.3 ms."""
    state = _batch[0]
    for _ in range(20):
        state = np.tanh(state @ _matrix)
    np.tanh(_batch @ _matrix)
    for _ in range(50):
        np.add(_few, _few)


def seconds() -> float:
    """How long it takes this time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
