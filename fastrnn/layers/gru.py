"""Keras's GRU and its cell."""

from fastrnn import reference
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
    n_states = 1

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        reset_after=True,
        seed=None,
        **kwargs,
    ):
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

    def _add_bias(self, columns):
        self.add_weight(
            (2, columns) if self.reset_after else (columns,), self.bias_initializer, "bias"
        )

    def recurrence(self):
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
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        reset_after=True,
        use_cudnn="auto",
        **kwargs,
    ):
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
