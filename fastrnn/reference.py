"""The mathematics of the kernels in plain NumPy: what every kernel is tested against.

Each function computes in the dtype of its arrays, whatever it is, and is written to be read. Shapes use B for the
batch, T for timesteps, F for features and U for units. The layouts and formulas are those of Keras 3.15
(keras/src/layers/rnn); where Keras's backends disagree, of its TensorFlow and PyTorch backends.
"""

from collections.abc import Callable

import numpy as np

from fastrnn._types import ActivationFunction

States = tuple[np.ndarray, ...]


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


class SimpleRNN:
    """h' = activation(x W + b + h R), with W (F, U), R (U, U), b (U,)."""

    n_states = 1

    def __init__(
        self,
        kernel: np.ndarray,
        recurrent_kernel: np.ndarray,
        bias: np.ndarray | None,
        activation: ActivationFunction,
    ) -> None:
        self.kernel, self.recurrent_kernel, self.bias = kernel, recurrent_kernel, bias
        self.activation = activation

    def step(self, x: np.ndarray, states: States) -> States:
        """Return the states (h',) after one step; x (B, F), h (B, U)."""
        (h,) = states
        z = x @ self.kernel + h @ self.recurrent_kernel
        return (self.activation(z if self.bias is None else z + self.bias),)


class LSTM:
    """c' = f c + i g and h' = o activation(c'), with W (F, 4U), R (U, 4U), b (4U,) for the gates i, f, g, o.

    i, f and o are recurrent_activation(x W + h R + b), g is activation(x W + h R + b), each of its own columns
    (Hochreiter and Schmidhuber, 1997; the forget gate of Gers et al., 2000).
    """

    n_states = 2

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

    def step(self, x: np.ndarray, states: States) -> States:
        """Return the states (h', c') after one step; x (B, F), h and c (B, U)."""
        h, c = states
        z = x @ self.kernel + h @ self.recurrent_kernel
        i, f, g, o = np.split(z if self.bias is None else z + self.bias, 4, axis=-1)
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
        return self.recurrent_activation(o) * self.activation(c), c


class GRU:
    """h' = z h + (1 - z) g, with W (F, 3U), R (U, 3U) for the gates z, r and the candidate g.

    reset_after (bias (2, 3U), for x W and for h R): g = activation(x W + b0 + r (h R + b1)), as cuDNN computes it.
    Otherwise (bias (3U,)): g = activation(x W + b + (r h) R), as Cho et al., 2014, define it.
    """

    n_states = 1

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

    def step(self, x: np.ndarray, states: States) -> States:
        """Return the states (h',) after one step; x (B, F), h (B, U)."""
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
        return (z * h + (1 - z) * g,)


Cell = SimpleRNN | LSTM | GRU


def recurrence(
    step: Callable[[np.ndarray, States], States],
    x: np.ndarray,
    states: States,
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
    step : callable
        (x_t, states) -> states; x_t (B, F), states a tuple of (B, ...) arrays whose first is the output.
    x : ndarray, shape (B, T, F)
    states : tuple of ndarray
        The initial states.
    mask : ndarray of bool, shape (B, T), or None
        True where a step counts.
    return_sequences : bool
        Return the outputs of all steps instead of the last one's.
    go_backwards : bool
        Start at the last step; outputs come in the order of processing.
    zero_output_for_mask : bool

    Returns
    -------
    y : ndarray, shape (B, T, U) or (B, U)
    states : tuple of ndarray
        The states after the last step.
    """
    times = range(x.shape[1])
    output = np.zeros_like(states[0])
    outputs = []
    for t in reversed(times) if go_backwards else times:
        stepped = step(x[:, t], states)
        if mask is None:
            states, output = stepped, stepped[0]
        else:
            valid = [mask[:, t].reshape(-1, *[1] * (new.ndim - 1)) for new in stepped]
            states = tuple(
                np.where(v, new, old) for v, new, old in zip(valid, stepped, states, strict=True)
            )
            output = np.where(valid[0], stepped[0], 0 if zero_output_for_mask else output)
        outputs.append(output)
    return (np.stack(outputs, axis=1) if return_sequences else output), states
