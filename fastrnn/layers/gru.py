"""Keras's GRU and its cell."""

from typing import Any

from fastrnn import reference
from fastrnn._types import ActivationFunction, ActivationLike, InitializerLike
from fastrnn.layers.rnn import RNN, RecurrentCell


class GRUCell(RecurrentCell):
    """One step of a GRU; states [h].

    Parameters
    ----------
    units : int
    activation : str or callable
        Of the candidate.
    recurrent_activation : str or callable
        Of the two gates.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str, dict or callable
    reset_after : bool
        Apply the reset gate after the recurrent product (Keras's default, and cuDNN's) or before it.
    kernel_regularizer, recurrent_regularizer, bias_regularizer : optional
    kernel_constraint, recurrent_constraint, bias_constraint : optional
    dropout, recurrent_dropout : float
    seed : optional
        Like the regularizers and constraints kept for the config; `training=True` with dropout is an error.
    **kwargs
        `Layer`'s arguments.

    Notes
    -----
    Weights: kernel (features, 3 * units), recurrent_kernel (units, 3 * units) and bias (2, 3 * units), or (3 * units,)
    without reset_after, of the gates z, r and the candidate.
    """

    arguments = (
        "units",
        "activation",
        "recurrent_activation",
        "use_bias",
        "kernel_initializer",
        "recurrent_initializer",
        "bias_initializer",
        "kernel_regularizer",
        "recurrent_regularizer",
        "bias_regularizer",
        "kernel_constraint",
        "recurrent_constraint",
        "bias_constraint",
        "dropout",
        "recurrent_dropout",
        "reset_after",
        "seed",
    )
    n_gates = 3

    recurrent_activation: ActivationFunction
    reset_after: bool

    def __init__(
        self,
        units: int,
        activation: ActivationLike = "tanh",
        recurrent_activation: ActivationLike = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
        kernel_regularizer: object = None,
        recurrent_regularizer: object = None,
        bias_regularizer: object = None,
        kernel_constraint: object = None,
        recurrent_constraint: object = None,
        bias_constraint: object = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reset_after: bool = True,
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
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            reset_after=reset_after,
            seed=seed,
        )

    def _add_bias(self, columns: int) -> None:
        self.add_weight(
            (2, columns) if self.reset_after else (columns,), self.bias_initializer, name="bias"
        )

    def recurrence(self) -> tuple[reference.GRU, str]:
        cell = reference.GRU(
            self.kernel,
            self.recurrent_kernel,
            self.bias,
            self.activation,
            self.recurrent_activation,
            self.reset_after,
        )
        return cell, "gru" if self.reset_after else "gru_reset_before"


class GRU(RNN):
    """Gated Recurrent Unit (Cho et al., 2014), over time.

    Parameters
    ----------
    units : int
    activation : str or callable
        Of the candidate.
    recurrent_activation : str or callable
        Of the two gates.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str, dict or callable
    reset_after : bool
        Apply the reset gate after the recurrent product (Keras's default, and cuDNN's) or before it.
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
    Weights: kernel (features, 3 * units), recurrent_kernel (units, 3 * units) and bias (2, 3 * units), or (3 * units,)
    without reset_after, of the gates z, r and the candidate.
    """

    arguments = (*GRUCell.arguments, "activity_regularizer")

    def __init__(
        self,
        units: int,
        activation: ActivationLike = "tanh",
        recurrent_activation: ActivationLike = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: InitializerLike = "glorot_uniform",
        recurrent_initializer: InitializerLike = "orthogonal",
        bias_initializer: InitializerLike = "zeros",
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
        reset_after: bool = True,
        use_cudnn: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        cell = GRUCell(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            recurrent_initializer=recurrent_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            recurrent_regularizer=recurrent_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            recurrent_constraint=recurrent_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            recurrent_dropout=recurrent_dropout,
            reset_after=reset_after,
            seed=seed,
            name="gru_cell",
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
