"""The base of the recurrent layers: everything that does not depend on the cell."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import activations, initializers, plan, reference
from fastrnn._nested import flatten
from fastrnn._types import ActivationFunction, Config, InitializerFunction, Nested, Shape
from fastrnn.layers.base import Layer, deserialize, to_mask, to_numeric
from fastrnn.layers.core import positive_integer

StatesLike = ArrayLike | Sequence[ArrayLike]
"""The states of one layer: a list, or one array where it has one state."""


class RecurrentCell(Layer):
    """The base of Keras's cells: weights, configs, and one step computed in NumPy.

    A subclass gives `arguments`, `n_gates`, `recurrence` and, where Keras has one, `bias_shape`.
    """

    n_gates: ClassVar[int] = 1
    n_states: ClassVar[int] = 1

    activation: ActivationFunction
    use_bias: bool
    kernel_initializer: InitializerFunction
    recurrent_initializer: InitializerFunction
    bias_initializer: InitializerFunction

    def _take_arguments(
        self, units: int, dropout: float, recurrent_dropout: float, **others: Any
    ) -> None:
        """Keep the constructor's arguments as attributes, read as Keras reads them."""
        self.units = positive_integer(units, f"layer {self.name!r}: units")
        self.dropout, self.recurrent_dropout = (
            min(1.0, max(0.0, dropout)),
            min(1.0, max(0.0, recurrent_dropout)),
        )
        for name, value in others.items():
            if name.endswith("activation"):
                value = activations.get(value)
                if value is activations.glu:
                    raise ValueError(
                        f"layer {self.name!r}: glu halves its input, so no cell can have it as {name}"
                    )
            elif name.endswith("initializer"):
                value = initializers.get(value)
            setattr(self, name, value)
        self.output_size = self.units
        self.state_size = self.units if self.n_states == 1 else [self.units] * self.n_states

    @property
    def kernel(self) -> np.ndarray:
        """ndarray, shape (features, gates * units)."""
        return self._weights["kernel"]

    @property
    def recurrent_kernel(self) -> np.ndarray:
        """ndarray, shape (units, gates * units)."""
        return self._weights["recurrent_kernel"]

    @property
    def bias(self) -> np.ndarray | None:
        """ndarray, shape (gates * units,) or, for a GRU with reset_after, (2, gates * units); None without one."""
        return self._weights.get("bias")

    def build(self, input_shape: Shape) -> None:
        columns = self.n_gates * self.units
        self.add_weight((input_shape[-1], columns), self.kernel_initializer, "kernel")
        self.add_weight((self.units, columns), self.recurrent_initializer, "recurrent_kernel")
        if self.use_bias:
            self._add_bias(columns)
        super().build(input_shape)

    def _add_bias(self, columns: int) -> None:
        self.add_weight((columns,), self.bias_initializer, "bias")

    def recurrence(self) -> tuple[reference.Cell, str]:
        """Return the cell of `fastrnn.reference` and the name of its kernel in the core."""
        raise NotImplementedError

    def get_initial_state(self, batch_size: int | None = None) -> list[np.ndarray]:
        """Return zeros for the states: a list of ndarray, shape (batch_size, units)."""
        shape: Any = (batch_size, self.units)
        return [np.zeros(shape, self.compute_dtype) for _ in range(self.n_states)]

    def _check_input(self, shape: Shape) -> None:
        if len(shape) != 2 or (self.built and shape[1] != self.kernel.shape[0]):
            features = self.kernel.shape[0] if self.built else "features"
            raise ValueError(
                f"cell {self.name!r}: expected an input (batch, {features}); got shape {tuple(shape)}"
            )

    def _refuse_training(self, training: bool) -> None:
        if training and (self.dropout or self.recurrent_dropout):
            raise ValueError(
                f"layer {self.name!r}: fastrnn runs inference only, so training=True cannot apply "
                f"dropout={self.dropout}, recurrent_dropout={self.recurrent_dropout}"
            )

    def __call__(  # type: ignore[override]  # a cell is called as Keras's, with its states
        self, inputs: ArrayLike, states: StatesLike, training: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Compute one step.

        Parameters
        ----------
        inputs : array-like, shape (batch, features)
        states : list of array-like, or one array for a cell with one state
            Each (batch, units).
        training : bool
            An error where the cell has dropout.

        Returns
        -------
        output : ndarray, shape (batch, units)
        states : list of ndarray, or ndarray where an array was given
        """
        self._refuse_training(training)
        x = np.asarray(to_numeric(inputs, f"cell {self.name!r}"), self.compute_dtype)
        self._check_input(x.shape)
        several = isinstance(states, (list, tuple))
        checked = self.check_states(states, x.shape[0], f"cell {self.name!r}")
        self._build_for(x)
        stepped = self.recurrence()[0].step(x, tuple(checked))
        return stepped[0], list(stepped) if several else stepped[0]

    def check_states(self, states: StatesLike, batch: int, owner: str) -> list[np.ndarray]:
        """Return `states`, a list or one array, as a list of (batch, units) arrays of the compute dtype.

        `owner` is who the message of an error names.

        Raises
        ------
        ValueError
            If their number or a shape is another one.
        """
        what = f"states of {owner}"
        given: list[Any] = list(states) if isinstance(states, (list, tuple)) else [states]
        if len(given) != self.n_states or (
            self.n_states > 1 and not isinstance(states, (list, tuple))
        ):
            got = (
                f"a list of {len(given)}"
                if isinstance(states, (list, tuple))
                else f"{type(states).__name__}"
            )
            raise ValueError(f"{what}: expected a list of {self.n_states}; got {got}")
        arrays = [
            np.ascontiguousarray(to_numeric(state, what), self.compute_dtype) for state in given
        ]
        for array in arrays:
            if array.shape != (batch, self.units):
                raise ValueError(f"{what}: expected shape {(batch, self.units)}; got {array.shape}")
        return arrays


class RecurrentLayer(Layer):
    """The base of `RNN` and `Bidirectional`: calls with a mask and states, states that stay."""

    call_arguments = ("sequences", "initial_state", "mask", "training")

    def _check_states(self, states: StatesLike, batch: int) -> list[np.ndarray]:
        """Return states as a flat list of arrays; ValueError if their number or a shape is another one."""
        raise NotImplementedError

    def reset_states(self, states: StatesLike | None = None) -> None:
        """Set a stateful layer's states, to zeros by default."""
        raise NotImplementedError

    def __call__(  # type: ignore[override]  # the arguments' order and names are Keras's
        self,
        sequences: ArrayLike,
        initial_state: StatesLike | None = None,
        mask: ArrayLike | None = None,
        training: bool = False,
    ) -> Nested:
        """Compute the layer.

        Parameters
        ----------
        sequences : array-like, shape (batch, timesteps, features)
        initial_state : list of array-like, or one array for a layer with one state, optional
            Each (batch, units); zeros, or a stateful layer's own states, by default.
        mask : array-like of bool, shape (batch, timesteps), optional
            False where a step does not count.
        training : bool
            An error where the layer has dropout.

        Returns
        -------
        ndarray or tuple of ndarray
            The output, (batch, units) or with `return_sequences` (batch, timesteps, units); with `return_state`
            followed by the states, each (batch, units).

        Raises
        ------
        ValueError
            If a shape does not fit; a stateful layer's states are then as they were.
        """
        self._refuse_training(training)
        x = to_numeric(sequences, f"layer {self.name!r}")
        self._check_input(x.shape)
        steps = None if mask is None else to_mask(mask, x.shape[:2], f"layer {self.name!r}")
        states = None if initial_state is None else self._check_states(initial_state, x.shape[0])
        self._build_for(x)
        return self._execute(x, steps, initial_state=states)

    def reset_state(self) -> None:
        """Set a stateful layer's states to zeros."""
        self.reset_states()


class RNN(RecurrentLayer):
    """A cell run over time.

    Parameters
    ----------
    cell : SimpleRNNCell, LSTMCell or GRUCell
    return_sequences : bool
        Return the outputs of all steps instead of the last one's.
    return_state : bool
        Return the final states too.
    go_backwards : bool
        Start at the last step; the outputs come in the order of processing.
    stateful : bool
        Start a call from the states that the call before it ended with.
    unroll : bool
        Kept for the config; it changes no number.
    zero_output_for_mask : bool
        A masked step gives zeros instead of the output before it.
    **kwargs
        `Layer`'s arguments.

    Attributes
    ----------
    states : list of ndarray or None
        A stateful layer's current states, each (batch, units).
    """

    arguments: ClassVar[tuple[str, ...]] = ("cell",)
    options = (
        "return_sequences",
        "return_state",
        "go_backwards",
        "stateful",
        "unroll",
        "zero_output_for_mask",
    )

    def __init__(
        self,
        cell: RecurrentCell,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(cell, RecurrentCell):
            raise TypeError(
                f"layer {self.name!r}: expected a SimpleRNNCell, LSTMCell or GRUCell; got {cell!r}"
            )
        self.cell = cell
        cell._users.append(self)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful, self.unroll = go_backwards, stateful, unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.states: list[np.ndarray] | None = None

    def __getattr__(self, name: str) -> Any:
        # units, kernel_initializer and all the rest that Keras's layers forward to their cell.
        if name in type(self).__dict__.get("arguments", ()):
            return getattr(self.cell, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _children(self) -> list[tuple[str, Layer | list[Layer]]]:
        return [("cell", self.cell)]

    def get_config(self) -> Config:
        config = super().get_config()
        return {**config, **{option: getattr(self, option) for option in self.options}}

    @classmethod
    def from_config(cls, config: Config) -> Self:
        if isinstance(config.get("cell"), dict):
            config = {**config, "cell": deserialize(config["cell"])}
        return cls(**config)

    def build(self, input_shape: Shape) -> None:
        if not self.cell.built:
            self.cell.build((input_shape[0], *input_shape[2:]))
        if self.stateful and self.states is None:
            if input_shape[0] is None:
                raise ValueError(
                    f"layer {self.name!r} is stateful: its batch size must be known; got the shape {tuple(input_shape)}"
                )
            self.states = self.cell.get_initial_state(input_shape[0])
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Nested:
        batch, steps = input_shape[:2]
        units = self.cell.output_size
        output = (batch, steps, units) if self.return_sequences else (batch, units)
        return (output, *[(batch, units)] * self.cell.n_states) if self.return_state else output

    def _check_input(self, shape: Shape) -> None:
        features = self.cell.kernel.shape[0] if self.cell.built else None
        if len(shape) != 3:
            raise ValueError(
                f"layer {self.name!r}: expected an input (batch, timesteps, features), ndim=3; "
                f"got ndim={len(shape)}, shape {tuple(shape)}"
            )
        if features is not None and shape[2] != features:
            raise ValueError(
                f"layer {self.name!r}: expected {features} features; got an input of shape {tuple(shape)}"
            )
        if shape[1] == 0:
            raise ValueError(
                f"layer {self.name!r}: expected at least one timestep; got an input of shape {tuple(shape)}"
            )
        if self.states is not None and shape[0] not in (None, len(self.states[0])):
            raise ValueError(
                f"layer {self.name!r} is stateful with a batch of {len(self.states[0])}; "
                f"got an input of shape {tuple(shape)}"
            )

    def _stateful_layers(self) -> Iterator["RNN"]:
        if self.stateful:
            yield self

    def lower(
        self, builder: plan.Builder, x: plan.Value, initial_state: Nested = None
    ) -> plan.Value | list[plan.Value]:
        self._check_input(x.shape)
        cell, kernel = self.cell.recurrence()
        batch, steps, _ = x.shape
        state_shape = (batch, self.cell.units)
        read, initial = builder.states.get(self, ([], []))
        if initial_state is not None:
            initial = flatten(initial_state)
        elif self.stateful and self not in builder.states:
            initial = [builder.value(state_shape) for _ in range(self.cell.n_states)]
            read = [value.buffer for value in initial]
        shape = (batch, steps, self.cell.units) if self.return_sequences else state_shape
        y = builder.value(shape, x.mask if self.return_sequences else None)
        final = []
        if self.return_state or self.stateful:
            final = [builder.value(state_shape) for _ in range(self.cell.n_states)]
        if self.stateful:
            # A layer called again within a model goes on from where its first call ended.
            builder.states[self] = (read, final)
        builder.add(
            plan.Recurrence(
                (
                    x.buffer,
                    *([] if x.mask is None else [x.mask]),
                    *(value.buffer for value in initial),
                ),
                (y.buffer, *(value.buffer for value in final)),
                self.compute_dtype,
                cell,
                kernel,
                masked=x.mask is not None,
                return_sequences=self.return_sequences,
                go_backwards=self.go_backwards,
                zero_output_for_mask=self.zero_output_for_mask,
            )
        )
        return [y, *final] if self.return_state else y

    def _check_states(self, states: StatesLike, batch: int) -> list[np.ndarray]:
        return self.cell.check_states(states, batch, f"layer {self.name!r}")

    def reset_states(self, states: StatesLike | None = None) -> None:
        """Set a stateful layer's states.

        Parameters
        ----------
        states : list of array-like, or one array for a layer with one state, optional
            Each (batch, units); zeros by default. Before the first call they fix the batch size.

        Raises
        ------
        ValueError
            If the layer is not stateful, or a shape does not fit; the states are then as they were.
        """
        if not self.stateful:
            raise ValueError(f"layer {self.name!r} is not stateful: it has no states to reset")
        if states is not None:
            first: Any = states[0] if isinstance(states, (list, tuple)) and states else states
            batch = len(self.states[0]) if self.states is not None else np.shape(first)[0]
            self.states = [state.copy() for state in self._check_states(states, batch)]
        elif self.states is not None:
            self.states = self.cell.get_initial_state(len(self.states[0]))
