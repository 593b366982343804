"""What masked steps put out where Keras does otherwise than zero them or repeat the output before them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fastrnn import plan

MaskedOutput = Literal["output", "state", "first state"]
"""What a masked step repeats: the output before it, the first state of the last cell, or that of the first cell."""


def zeroed(y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the outputs of all steps with zeros for those that are masked."""
    return np.where(mask.reshape(*mask.shape[:2], *[1] * (y.ndim - 2)), y, 0)


def put_out_states(
    builder: plan.Builder,
    dtype: np.dtype,
    y: plan.Value,
    states: plan.Value,
    mask: int,
    start: Sequence[plan.Value],
    go_backwards: bool,
) -> plan.Value:
    """Write the step that has masked steps put out a state.

    Parameters
    ----------
    builder : Builder
    dtype : numpy.dtype
        Of the numbers.
    y : Value
        The outputs of all steps, (batch, timesteps, units), or the last one's, (batch, units).
    states : Value
        The state after each step, or after the last one, of the same shape; before the first step that counts it may
        be anything.
    mask : int
        The mask's buffer, in the order of the input.
    start : sequence of Value
        The state before the first step, or nothing for zeros.
    go_backwards : bool
        Whether `y` and `states` begin at the input's last step.
    """
    whole = len(y.shape) == 3

    def choose(
        y: np.ndarray, states: np.ndarray, mask: np.ndarray, *start: np.ndarray
    ) -> np.ndarray:
        counts = mask[:, ::-1] if go_backwards else mask
        started = np.logical_or.accumulate(counts, axis=1)
        before = start[0] if start else np.zeros((len(states), states.shape[-1]), dtype)
        if not whole:
            counts, started = counts[:, -1], started[:, -1]
        else:
            before = before[:, np.newaxis]
        states = np.where(started[..., np.newaxis], states, before)
        return np.where(counts[..., np.newaxis], y, states)

    chosen = builder.value(y.shape, y.mask)
    sources = (y.buffer, states.buffer, mask, *(one.buffer for one in start))
    builder.add(plan.Apply(sources, (chosen.buffer,), dtype, choose))
    return chosen
