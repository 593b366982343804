"""Keras's LSTM and its cell."""

from typing import Any, ClassVar

import numpy as np

from fastrnn import reference
from fastrnn._types import ActivationFunction, ActivationLike, InitializerLike, Shape
from fastrnn.layers.rnn import RNN, RecurrentCell


class LSTMCell(RecurrentCell):
    """One step of an LSTM; states [h, c].

    Parameters
    ----------
    units : int
    activation : str or callable
        Of the candidate and of the new carry.
    recurrent_activation : str or callable
        Of the three gates.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str, dict or callable
    unit_forget_bias : bool
        Initialize the forget gate's bias with ones.
    kernel_regularizer, recurrent_regularizer, bias_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint : optional
    dropout, recurrent_dropout : float
    seed : optional
        Like the regularizers and constraints kept for the config; `training=True` with dropout is an error.
    **kwargs
        `Layer`'s arguments.

    Notes
    -----
    Weights: kernel (features, 4 * units), recurrent_kernel (units, 4 * units) and bias (4 * units,), of the gates
    i, f, g, o.
    """

    arguments: ClassVar[tuple[str, ...]] = (
        "units",
        "activation",
        "recurrent_activation",
        "use_bias",
        "kernel_initializer",
        "recurrent_initializer",
        "bias_initializer",
        "unit_forget_bias",
        "kernel_regularizer",
        "recurrent_regularizer",
        "bias_regularizer",
        "kernel_constraint",
        "recurrent_constraint",
        "bias_constraint",
        "dropout",
        "recurrent_dropout",
        "seed",
    )
    n_gates = 4
    n_states_of_kind = 2

    recurrent_activation: ActivationFunction
    unit_forget_bias: bool

    def __init__(
        self,
        units: int,
        activation: ActivationLike = "tanh",
        recurrent_activation: ActivationLike = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: object = None,
        recurrent_regularizer: object = None,
        bias_regularizer: object = None,
        kernel_constraint: object = None,
        recurrent_constraint: object = None,
        bias_constraint: object = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: object = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._take_arguments(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            unit_forget_bias=unit_forget_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
        )

    def _add_bias(self, columns: int) -> None:
        self.add_weight(
            (columns,),
            self._initial_bias if self.unit_forget_bias else self.bias_initializer,
            name="bias",
        )

    def _initial_bias(self, shape: Shape, dtype: str) -> np.ndarray:
        """The bias initializer's values for i, ones for f, and its values again for g and o."""
        units = self.units
        return np.concatenate(
            [
                self.bias_initializer((units,), dtype=dtype),
                np.ones(units, dtype),
                self.bias_initializer((2 * units,), dtype=dtype),
            ]
        )

    def recurrence(self) -> tuple[reference.Cell, str]:
        cell = reference.LSTM(
            self.kernel,
            self.recurrent_kernel,
            self.bias,
            self.activation,
            self.recurrent_activation,
        )
        return cell, "lstm"


class LSTM(RNN):
    """Long Short-Term Memory (Hochreiter and Schmidhuber, 1997), over time.

    Parameters
    ----------
    units : int
    activation : str or callable
        Of the candidate and of the new carry.
    recurrent_activation : str or callable
        Of the three gates.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str, dict or callable
    unit_forget_bias : bool
        Initialize the forget gate's bias with ones.
    kernel_regularizer, recurrent_regularizer, bias_regularizer, activity_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint : optional
    dropout, recurrent_dropout : float
    seed : optional
        Like the regularizers and constraints kept for the config; `training=True` with dropout is an error.
    return_sequences, return_state, go_backwards, stateful, unroll : bool
        As in `RNN`.
    use_cudnn : optional
        Accepted and without effect.
    **kwargs
        `zero_output_for_mask`, as in `RNN`, and `Layer`'s arguments.

    Notes
    -----
    Weights: kernel (features, 4 * units), recurrent_kernel (units, 4 * units) and bias (4 * units,), of the gates
    i, f, g, o.
    """

    arguments = (*LSTMCell.arguments, "activity_regularizer")

    def __init__(
        self,
        units: int,
        activation: ActivationLike = "tanh",
        recurrent_activation: ActivationLike = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: object = None,
        recurrent_regularizer: object = None,
        bias_regularizer: object = None,
        activity_regularizer: object = None,
        kernel_constraint: object = None,
        recurrent_constraint: object = None,
        bias_constraint: object = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: object = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        use_cudnn: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        cell = LSTMCell(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            unit_forget_bias=unit_forget_bias,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            seed=seed,
            name="lstm_cell",
            dtype=kwargs.get("dtype"),
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
