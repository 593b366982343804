"""The mathematics of the kernels in plain NumPy: what every kernel is tested against.

Each function computes in the dtype of its arrays, whatever it is, and is written to be read. Shapes use B for the
batch, T for timesteps, F for features and U for units. The layouts and formulas are those of Keras 3.15
(keras/src/layers/rnn); where Keras's backends disagree, of its TensorFlow and PyTorch backends.
"""

from collections.abc import Sequence
from math import prod
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fastrnn._types import ActivationFunction

States = tuple[np.ndarray, ...]


class Cell(Protocol):
    """One step of a recurrence, and where it starts."""

    def step(self, x: np.ndarray, states: States) -> tuple[np.ndarray, States]:
        """Return the output (B, ...) and the new states for x (B, ...) and states, each (B, ...)."""
        ...

    def initial_states(self, x: np.ndarray) -> States:
        """Return the states before the first step of x (B, T, ...)."""
        ...


def _zeros(x: np.ndarray, recurrent_kernel: np.ndarray, n_states: int) -> States:
    """Zeros (B, U) for each of `n_states` states."""
    shape = (len(x), recurrent_kernel.shape[0])
    return tuple(np.zeros(shape, recurrent_kernel.dtype) for _ in range(n_states))


def dense(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None, activation: ActivationFunction
) -> np.ndarray:
    """Return activation(x @ kernel + bias).

    Parameters
    ----------
    x : ndarray, shape (..., F)
    kernel : ndarray, shape (F, U)
    bias : ndarray, shape (U,), or None
    activation : callable

    Returns
    -------
    ndarray, shape (..., U)
    """
    z = x @ kernel
    return activation(z if bias is None else z + bias)


def merge(a: np.ndarray, b: np.ndarray, mode: str) -> np.ndarray:
    """Return two directions' outputs merged.

    Parameters
    ----------
    a, b : ndarray, shape (..., U)
    mode : {"concat", "sum", "mul", "ave"}

    Returns
    -------
    ndarray, shape (..., 2 U) for "concat", otherwise (..., U)
    """
    if mode == "concat":
        return np.concatenate([a, b], axis=-1)
    if mode == "mul":
        return a * b
    return a + b if mode == "sum" else (a + b) / 2


def _same_padding(length: int, window: int, stride: int) -> tuple[int, int]:
    """The zeros before and after an axis that give ceil(length / stride) windows."""
    total = max((-(-length // stride) - 1) * stride + window - length, 0)
    return total // 2, total - total // 2


def convolve(
    x: np.ndarray,
    kernel: np.ndarray,
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
) -> np.ndarray:
    """Return the convolution of `x` with `kernel`.

    Parameters
    ----------
    x : ndarray, shape (batch, *space, channels)
    kernel : ndarray, shape (*kernel_size, channels / groups, filters)
        For as many groups as the channels tell.
    strides, dilation : sequence of int
    padding : str
        "valid", "same" or "causal".

    Returns
    -------
    ndarray, shape (batch, *new_space, filters)
    """
    rank = x.ndim - 2
    sizes = kernel.shape[:rank]
    windows = [(size - 1) * step + 1 for size, step in zip(sizes, dilation, strict=True)]
    if padding != "valid":
        ends = [
            (window - 1, 0) if padding == "causal" else _same_padding(length, window, stride)
            for length, window, stride in zip(x.shape[1:-1], windows, strides, strict=True)
        ]
        x = np.pad(x, [(0, 0), *ends, (0, 0)])
    patches = sliding_window_view(x, windows, tuple(range(1, rank + 1)))
    taken = [slice(None, None, stride) for stride in strides]
    inside = [slice(None, None, step) for step in dilation]
    patches = patches[(slice(None), *taken, slice(None), *inside)]
    places = patches.shape[: rank + 1]
    inputs, filters = kernel.shape[-2:]
    groups = x.shape[-1] // inputs
    patches = patches.reshape(*places, groups, inputs, *sizes)
    # (groups, *places, *sizes, inputs), so that a group's patches are the rows of a matrix
    order = [rank + 1, *range(rank + 1), *range(rank + 3, 2 * rank + 3), rank + 2]
    rows = patches.transpose(order).reshape(groups, prod(places), prod(sizes) * inputs)
    columns = kernel.reshape(prod(sizes) * inputs, groups, filters // groups).transpose(1, 0, 2)
    return (rows @ columns).transpose(1, 0, 2).reshape(*places, filters)


class SimpleRNN:
    """h' = activation(x W + b + h R), with W (F, U), R (U, U), b (U,)."""

    def __init__(
        self,
        kernel: np.ndarray,
        recurrent_kernel: np.ndarray,
        bias: np.ndarray | None,
        activation: ActivationFunction,
    ) -> None:
        self.kernel, self.recurrent_kernel, self.bias = kernel, recurrent_kernel, bias
        self.activation = activation

    def initial_states(self, x: np.ndarray) -> States:
        """Return zeros (B, U)."""
        return _zeros(x, self.recurrent_kernel, 1)

    def step(self, x: np.ndarray, states: States) -> tuple[np.ndarray, States]:
        """Return h' and the states (h',) after one step; x (B, F), h (B, U)."""
        (h,) = states
        z = x @ self.kernel + h @ self.recurrent_kernel
        h = self.activation(z if self.bias is None else z + self.bias)
        return h, (h,)


class LSTM:
    """c' = f c + i g and h' = o activation(c'), with W (F, 4U), R (U, 4U), b (4U,) for the gates i, f, g, o.

    i, f and o are recurrent_activation(x W + h R + b), g is activation(x W + h R + b), each of its own columns
    (Hochreiter and Schmidhuber, 1997; the forget gate of Gers et al., 2000).
    """

    def __init__(
        self,
        kernel: np.ndarray,
        recurrent_kernel: np.ndarray,
        bias: np.ndarray | None,
        activation: ActivationFunction,
        recurrent_activation: ActivationFunction,
    ) -> None:
        self.kernel, self.recurrent_kernel, self.bias = kernel, recurrent_kernel, bias
        self.activation, self.recurrent_activation = activation, recurrent_activation

    def initial_states(self, x: np.ndarray) -> States:
        """Return zeros (B, U) for h and c."""
        return _zeros(x, self.recurrent_kernel, 2)

    def step(self, x: np.ndarray, states: States) -> tuple[np.ndarray, States]:
        """Return h' and the states (h', c') after one step; x (B, F), h and c (B, U)."""
        h, c = states
        z = x @ self.kernel + h @ self.recurrent_kernel
        i, f, g, o = np.split(z if self.bias is None else z + self.bias, 4, axis=-1)
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
        h = self.recurrent_activation(o) * self.activation(c)
        return h, (h, c)


class GRU:
    """h' = z h + (1 - z) g, with W (F, 3U), R (U, 3U) for the gates z, r and the candidate g.

    reset_after (bias (2, 3U), for x W and for h R): g = activation(x W + b0 + r (h R + b1)), as cuDNN computes it.
    Otherwise (bias (3U,)): g = activation(x W + b + (r h) R), as Cho et al., 2014, define it.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        recurrent_kernel: np.ndarray,
        bias: np.ndarray | None,
        activation: ActivationFunction,
        recurrent_activation: ActivationFunction,
        reset_after: bool,
    ) -> None:
        self.kernel, self.recurrent_kernel = kernel, recurrent_kernel
        self.activation, self.recurrent_activation = activation, recurrent_activation
        self.reset_after = reset_after
        if bias is None:
            bias = np.zeros((2, kernel.shape[1]) if reset_after else kernel.shape[1], kernel.dtype)
        self.bias: np.ndarray
        self.recurrent_bias: np.ndarray | None
        self.bias, self.recurrent_bias = bias if reset_after else (bias, None)

    def initial_states(self, x: np.ndarray) -> States:
        """Return zeros (B, U)."""
        return _zeros(x, self.recurrent_kernel, 1)

    def step(self, x: np.ndarray, states: States) -> tuple[np.ndarray, States]:
        """Return h' and the states (h',) after one step; x (B, F), h (B, U)."""
        (h,) = states
        units = h.shape[-1]
        x_z, x_r, x_g = np.split(x @ self.kernel + self.bias, 3, axis=-1)
        if self.reset_after:
            h_z, h_r, h_g = np.split(h @ self.recurrent_kernel + self.recurrent_bias, 3, axis=-1)
        else:
            h_z, h_r = np.split(h @ self.recurrent_kernel[:, : 2 * units], 2, axis=-1)
        z = self.recurrent_activation(x_z + h_z)
        r = self.recurrent_activation(x_r + h_r)
        if not self.reset_after:
            h_g = (r * h) @ self.recurrent_kernel[:, 2 * units :]
        g = self.activation(x_g + (r * h_g if self.reset_after else h_g))
        h = z * h + (1 - z) * g
        return h, (h,)


class ConvLSTM:
    """An LSTM whose products are convolutions: the equations of `LSTM` with x * W and h * R for x W and h R.

    W is (*taps, C, 4 F) and R (*taps, F, 4 F), b (4 F,), for images of C channels and F filters (Shi et al., 2015,
    without their peepholes). The convolution of h keeps its size, whatever that of x does.
    """

    n_states = 2

    def __init__(
        self,
        kernel: np.ndarray,
        recurrent_kernel: np.ndarray,
        bias: np.ndarray | None,
        activation: ActivationFunction,
        recurrent_activation: ActivationFunction,
        *,
        strides: Sequence[int],
        dilation: Sequence[int],
        padding: str,
        channel_axis: int = -1,
    ) -> None:
        self.kernel, self.recurrent_kernel, self.bias = kernel, recurrent_kernel, bias
        self.activation, self.recurrent_activation = activation, recurrent_activation
        self.strides, self.dilation = tuple(strides), tuple(dilation)
        self.padding, self.channel_axis = padding, channel_axis

    def _convolved_input(self, x: np.ndarray) -> np.ndarray:
        x = np.moveaxis(x, self.channel_axis, -1)
        z = convolve(x, self.kernel, self.strides, self.dilation, self.padding)
        return np.moveaxis(z if self.bias is None else z + self.bias, -1, self.channel_axis)

    def _convolved_state(self, h: np.ndarray) -> np.ndarray:
        h = np.moveaxis(h, self.channel_axis, -1)
        ones = (1,) * len(self.strides)
        z = convolve(h, self.recurrent_kernel, ones, ones, "same")
        return np.moveaxis(z, -1, self.channel_axis)

    def initial_states(self, x: np.ndarray) -> States:
        """Return zeros (B, *new_space, F) for h and c."""
        i, *_ = np.split(self._convolved_input(x[:, 0]), 4, axis=self.channel_axis)
        return np.zeros_like(i), np.zeros_like(i)

    def step(self, x: np.ndarray, states: States) -> tuple[np.ndarray, States]:
        """Return h' and the states (h', c') after one step; x (B, *space, C), h and c (B, *new_space, F)."""
        h, c = states
        z = self._convolved_input(x) + self._convolved_state(h)
        i, f, g, o = np.split(z, 4, axis=self.channel_axis)
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
        h = self.recurrent_activation(o) * self.activation(c)
        return h, (h, c)


def recurrence(
    cell: Cell,
    x: np.ndarray,
    states: States | None = None,
    mask: np.ndarray | None = None,
    *,
    return_sequences: bool = False,
    go_backwards: bool = False,
    zero_output_for_mask: bool = False,
) -> tuple[np.ndarray, States]:
    """Run a cell over time.

    A masked step keeps a row's states and repeats its output: zeros before its first unmasked step, and always zeros
    with `zero_output_for_mask`.

    Parameters
    ----------
    cell : Cell
    x : ndarray, shape (B, T, ...)
    states : tuple of ndarray, optional
        The states before the first step, each (B, ...); the cell's own by default.
    mask : ndarray of bool, shape (B, T), or None
        True where a step counts.
    return_sequences : bool
        Return the outputs of all steps instead of the last one's.
    go_backwards : bool
        Start at the last step; outputs come in the order of processing.
    zero_output_for_mask : bool

    Returns
    -------
    y : ndarray, shape (B, T, ...) or (B, ...)
    states : tuple of ndarray
        The states after the last step.
    """
    states = cell.initial_states(x) if states is None else states
    times = range(x.shape[1])
    outputs: list[np.ndarray] = []
    for t in reversed(times) if go_backwards else times:
        output, stepped = cell.step(x[:, t], states)
        if mask is None:
            states = stepped
        else:
            before = outputs[-1] if outputs and not zero_output_for_mask else np.zeros_like(output)
            output = _where(mask[:, t], output, before)
            states = tuple(
                _where(mask[:, t], new, old) for new, old in zip(stepped, states, strict=True)
            )
        outputs.append(output)
    return (np.stack(outputs, axis=1) if return_sequences else outputs[-1]), states


def _where(valid: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The rows of `new` where `valid` (B,) is True, of `old` elsewhere."""
    return np.where(valid.reshape(-1, *[1] * (new.ndim - 1)), new, old)
