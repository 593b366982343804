"""The base of the recurrent layers: everything that does not depend on the cell."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import activations, initializers, plan, reference
from fastrnn._nested import flatten, unflatten
from fastrnn._types import ActivationFunction, Config, InitializerFunction, Nested, Shape
from fastrnn.dtypes import as_dtype
from fastrnn.layers.arguments import fits, to_numeric
from fastrnn.layers.base import Layer, deserialize
from fastrnn.layers.core import positive_integer
from fastrnn.layers.masked_outputs import MaskedOutput, put_out_states, zeroed

StatesLike = ArrayLike | Sequence[Any]
"""The states of one layer: nested lists of arrays, or one array where it has one state."""


@dataclass(frozen=True)
class OverTime:
    """How a cell is run over a sequence.

    Attributes
    ----------
    return_sequences, go_backwards, zero_output_for_mask : bool
        As in `RNN`.
    final : bool
        Whether the states after the last step are needed.
    constants : tuple of Value
        What a user's cell gets at every step.
    """

    return_sequences: bool = False
    go_backwards: bool = False
    zero_output_for_mask: bool = False
    final: bool = False
    constants: tuple[plan.Value, ...] = ()


class Cell(ABC):
    """What `RNN` needs of a cell: Keras's own, a stack, or one that a user wrote.

    Attributes
    ----------
    step_shape : tuple of int or None, or None
        One step's input without the batch, None for a size that is not known; None if any shape will do.
    takes_constants : bool
        Whether a step can be given constants.
    """

    step_shape: Shape | None
    takes_constants = False
    compute_dtype: np.dtype
    plan_step: ClassVar[type[plan.Recurrence]] = plan.Recurrence
    """The step of a plan that runs the cell over a sequence."""

    @property
    @abstractmethod
    def state_structure(self) -> list[Any]:
        """Nested lists that hold anything in the place of each state."""

    @abstractmethod
    def state_shapes(self, step_shape: Shape | None = None) -> list[Shape]:
        """Return the states' shapes without the batch, a flat list, for a step's input without it."""

    @abstractmethod
    def output_shape(self, step_shape: Shape) -> Shape:
        """Return the output's shape without the batch, for a step's input without it."""

    @abstractmethod
    def initial_state_of(self, batch: int) -> list[np.ndarray]:
        """Return the states that a sequence starts from where none are given, a flat list."""

    @abstractmethod
    def step(self, x: np.ndarray, states: reference.States) -> tuple[np.ndarray, reference.States]:
        """Compute one step in NumPy; the states are flat."""

    @abstractmethod
    def build_for(self, step_shape: Shape) -> None:
        """Create the weights, if there are any and they are not there yet; the shape has the batch."""

    def initial_states(self, x: np.ndarray) -> reference.States:
        """Return the states before the first step of x (batch, timesteps, ...)."""
        return tuple(self.initial_state_of(len(x)))

    def recurrence(self) -> tuple[reference.Cell, str | None]:
        """Return what computes the steps in NumPy, and the name of the core's kernel for it, None without one."""
        return self, None

    @property
    def stacked(self) -> "Sequence[Cell]":
        """sequence of Cell: the cells that it is a stack of, or itself."""
        return (self,)

    @property
    def n_states(self) -> int:
        """int: the number of arrays in the states."""
        return len(flatten(self.state_structure))

    @property
    def state_names(self) -> list[str]:
        """list of str: what a stream calls the states, flat."""
        return [str(number) for number in range(self.n_states)]

    def lower_over_time(
        self,
        builder: plan.Builder,
        x: plan.Value,
        initial: list[plan.Value],
        over: OverTime,
    ) -> tuple[plan.Value, list[plan.Value]]:
        """Write the steps that run the cell over `x`.

        Parameters
        ----------
        builder : plan.Builder
        x : plan.Value
            The sequence, with its mask.
        initial : list of Value
            The states before the first step, flat; none for the cell's own.
        over : OverTime

        Returns
        -------
        y : Value
        final : list of Value
            The states after the last step, where they are asked for.
        """
        batch, steps, *step_shape = x.shape
        size = self.output_shape(tuple(step_shape))
        y = builder.value((batch, steps, *size) if over.return_sequences else (batch, *size))
        shapes = self.state_shapes(tuple(step_shape)) if over.final else []
        final = [builder.value((batch, *shape)) for shape in shapes]
        sources = [x, *initial, *over.constants]
        buffers = [value.buffer for value in sources]
        if x.mask is not None:
            buffers.insert(1, x.mask)
        targets = (y.buffer, *(value.buffer for value in final))
        builder.add(
            self.plan_step(
                tuple(buffers),
                targets,
                self.compute_dtype,
                *self.recurrence(),
                masked=x.mask is not None,
                return_sequences=over.return_sequences,
                go_backwards=over.go_backwards,
                zero_output_for_mask=over.zero_output_for_mask,
                n_constants=len(over.constants),
            )
        )
        return y, final

    def check_states(self, states: StatesLike, batch: int | None, owner: str) -> list[np.ndarray]:
        """Return `states`, in their structure, flat, or one array, as a flat list of arrays of the compute dtype.

        `owner` is who the message of an error names; `batch` None takes any.

        Raises
        ------
        ValueError
            If their number or a shape is another one.
        """
        what = f"states of {owner}"
        given = _leaves(states, self.state_structure)
        if given is None:
            expected = "an array" if self.n_states == 1 else f"a list of {self.n_states}"
            got = type(states).__name__
            if isinstance(states, (list, tuple)):
                got = f"a list of {len(flatten(states))}"
            raise ValueError(f"{what}: expected {expected}; got {got}")
        arrays = [
            np.ascontiguousarray(to_numeric(state, what), self.compute_dtype) for state in given
        ]
        for array, shape in zip(arrays, self.state_shapes(self.step_shape), strict=True):
            if batch is None:
                batch = len(array) if array.ndim else 0
            if not fits(array.shape, (batch, *shape)):
                raise ValueError(f"{what}: expected shape {(batch, *shape)}; got {array.shape}")
        return arrays

    def structured(self, flat: Sequence[Any]) -> list[Any]:
        """Return a flat sequence with one entry a state in the states' structure."""
        nested: list[Any] = unflatten(self.state_structure, flat)
        return nested


def _leaves(given: Any, structure: Any) -> list[Any] | None:
    """What `given` holds for each state of `structure`, or None if it is neither in that structure nor flat."""
    if not isinstance(structure, list):
        return [given]
    n_states = len(flatten(structure))
    if not isinstance(given, (list, tuple)):
        return [given] if n_states == 1 else None
    if len(given) == len(structure):
        parts = [_leaves(part, inner) for part, inner in zip(given, structure, strict=True)]
        if None not in parts:
            return [leaf for part in parts for leaf in part or ()]
    return list(given) if len(given) == n_states else None


class KerasCell(Cell, Layer):
    """The base of the cells that Keras has: layers that can be called by themselves."""

    def as_given(self, states: reference.States, given: StatesLike) -> Any:
        """Return flat states after a step in the form of those before it."""
        raise NotImplementedError

    def __call__(
        self,
        inputs: ArrayLike,
        states: StatesLike | None = None,
        training: bool = False,
        *,
        initial_state: StatesLike | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Compute one step.

        Parameters
        ----------
        inputs : array-like, shape (batch, ...)
        states : nested list of array-like, or one array for a cell with one state
            Each (batch, ...).
        training : bool
            An error where the cell has dropout.
        initial_state : optional
            Another name of `states`.

        Returns
        -------
        output : ndarray, shape (batch, ...)
        states
            Lists of ndarray; ndarray where an array was given. A stack gives one entry a cell, a stack of one cell
            that entry itself.

        Raises
        ------
        TypeError
            Without states.
        ValueError
            If a shape or the number of states does not fit.
        """
        from fastrnn.layers.cells import as_cell

        owner = f"cell {self.name!r}"
        if (states is None) == (initial_state is None):
            raise TypeError(f"{owner}: expected its states, as `states` or as `initial_state`")
        given: Any = initial_state if states is None else states
        self._refuse_training(training)
        x = np.asarray(to_numeric(inputs, owner), self.compute_dtype)
        self._check_input(x.shape)
        checked = self.check_states(given, len(x), owner)
        self.build_for(x.shape)
        with np.errstate(all="ignore"):
            output, new = as_cell(self, self.compute_dtype).step(x, tuple(checked))
        returned = as_dtype(self.dtype_policy.compute_dtype)
        with np.errstate(over="ignore"):
            output, *states = [array.astype(returned, copy=False) for array in (output, *new)]
        return output, self.as_given(tuple(states), given)

    def _check_input(self, shape: Shape) -> None:
        expected = self.step_shape
        if expected is not None and not fits(shape[1:], expected):
            raise ValueError(
                f"cell {self.name!r}: expected an input {('batch', *expected)}; got shape {tuple(shape)}"
            )

    def build_for(self, step_shape: Shape) -> None:
        if not self.built:
            self.build(step_shape)

    def initial_state_of(self, batch: int) -> list[np.ndarray]:
        return flatten(self.get_initial_state(batch))

    def get_initial_state(self, batch_size: int | None = None) -> list[Any]:
        """Return zeros for the states: nested lists of ndarray, shape (batch_size, ...)."""
        shapes: Any = [(batch_size, *shape) for shape in self.state_shapes(self.step_shape)]
        return self.structured([np.zeros(shape, self.compute_dtype) for shape in shapes])


class RecurrentCell(KerasCell):
    """The base of Keras's cells: weights, configs, and one step computed in NumPy.

    A subclass gives `arguments`, `n_gates`, `n_states_of_kind`, `recurrence` and, where Keras has another one, the
    bias.
    """

    n_gates: ClassVar[int] = 1
    n_states_of_kind: ClassVar[int] = 1
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
        self.step_shape = (None,)

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
        self.step_shape = tuple(input_shape[1:])
        self.add_weight((input_shape[-1], columns), self.kernel_initializer, name="kernel")
        self.add_weight((self.units, columns), self.recurrent_initializer, name="recurrent_kernel")
        if self.use_bias:
            self._add_bias(columns)
        super().build(input_shape)

    def _add_bias(self, columns: int) -> None:
        self.add_weight((columns,), self.bias_initializer, name="bias")

    @property
    def state_structure(self) -> list[Any]:
        return [None] * self.n_states_of_kind

    def structured(self, flat: Sequence[Any]) -> list[Any]:
        return list(flat)

    @property
    def state_names(self) -> list[str]:
        return ["h", "c"][: self.n_states]

    def state_shapes(self, step_shape: Shape | None = None) -> list[Shape]:
        return [(self.units,)] * self.n_states

    def output_shape(self, step_shape: Shape) -> Shape:
        return (self.units,)

    def step(self, x: np.ndarray, states: reference.States) -> tuple[np.ndarray, reference.States]:
        return self.recurrence()[0].step(x, states)

    def _refuse_training(self, training: bool) -> None:
        if training and (self.dropout or self.recurrent_dropout):
            raise ValueError(
                f"layer {self.name!r}: fastrnn runs inference only, so training=True cannot apply "
                f"dropout={self.dropout}, recurrent_dropout={self.recurrent_dropout}"
            )

    def as_given(self, states: reference.States, given: StatesLike) -> Any:
        return list(states) if isinstance(given, (list, tuple)) else states[0]


class RecurrentLayer(Layer):
    """The base of `RNN` and `Bidirectional`: calls with a mask and states, states that stay.

    Parameters
    ----------
    mask_beside_states : bool
        Whether the mask that a sequence carries counts in a call that is given an initial state, too, as in the models
        of Keras 2; not in the config.
    kept_states_first : bool
        Whether a stateful layer that is given an initial state starts from the states that it kept all the same, unless
        they are all zeros, as in TensorFlow's Keras 2; not in the config.
    zeroes_masked_steps : bool
        Whether `zero_output_for_mask` has an effect, and so whether the masked steps of a `Bidirectional` that returns
        sequences give zeros; False for files of versions in which it had none, and not in the config.
    masked_output : {"output", "state", "first state"}
        What a masked step repeats: the output before it, or, for files of versions that did, the first state of the
        last cell or of the first cell of a stack; not in the config.
    **kwargs
        `Layer`'s arguments.
    """

    meanings: ClassVar[tuple[str, ...]] = (
        "mask_beside_states",
        "kept_states_first",
        "zeroes_masked_steps",
        "masked_output",
    )
    """The options that are not in the config, which tell what the version that wrote a file meant."""
    call_arguments = ("sequences", "initial_state", "mask", "training", "constants")

    return_sequences: bool

    def __init__(
        self,
        *,
        mask_beside_states: bool = False,
        kept_states_first: bool = False,
        zeroes_masked_steps: bool = True,
        masked_output: MaskedOutput = "output",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mask_beside_states, self.kept_states_first = mask_beside_states, kept_states_first
        self.zeroes_masked_steps, self.masked_output = zeroes_masked_steps, masked_output

    def _carried_mask_counts(self, name: str, tensors: Sequence[str]) -> bool:
        if self.mask_beside_states and name == self.call_arguments[0]:
            return True
        return super()._carried_mask_counts(name, tensors)

    @property
    def _n_outputs(self) -> int:
        """How many outputs there are before the states."""
        return 1

    def _check_states(self, states: StatesLike, batch: int | None) -> list[np.ndarray]:
        """Return states as a flat list of arrays; ValueError if their number or a shape is another one."""
        raise NotImplementedError

    def _nested(self, results: Sequence[np.ndarray]) -> tuple[Any, ...]:
        """Return the output and the states, flat, in the structure in which a call returns them."""
        return tuple(results)

    def reset_states(self, states: StatesLike | None = None) -> None:
        """Set a stateful layer's states, to zeros by default."""
        raise NotImplementedError

    def __call__(  # the arguments' order and names are Keras's
        self,
        sequences: ArrayLike,
        initial_state: StatesLike | None = None,
        mask: ArrayLike | None = None,
        training: bool = False,
        constants: Sequence[ArrayLike] | None = None,
    ) -> Nested:
        """Compute the layer.

        Parameters
        ----------
        sequences : array-like, shape (batch, timesteps, ...)
        initial_state : nested or flat list of array-like, or one array for a layer with one state, optional
            Each (batch, ...); the cell's own, mostly zeros, or a stateful layer's states by default.
        mask : array-like of bool, shape (batch, timesteps), optional
            False where a step does not count.
        training : bool
            An error where the layer has dropout.
        constants : list of array-like, each (batch, ...), optional
            What a user's cell gets as `constants` at every step, as in Keras 2.

        Returns
        -------
        ndarray or tuple
            The output, (batch, units) or with `return_sequences` (batch, timesteps, units); with `return_state`
            followed by the states, for a stack one list a cell.

        Raises
        ------
        ValueError
            If a shape does not fit; a stateful layer's states are then as they were.
        """
        call = self._prepared.direct.get((type(self), mask is None, initial_state is None))
        if call is not None and constants is None and not training:
            if initial_state is None:
                results = call.run((sequences,) if mask is None else (sequences, mask))
            else:
                states: Any = initial_state
                if type(states) is not list and not isinstance(states, tuple):
                    states = (states,)
                arrays = (sequences, *states) if mask is None else (sequences, mask, *states)
                results = call.run(arrays)
            if results is not None:
                return results
        named = {"mask": mask, "initial_state": initial_state, "constants": constants}
        return self._call((sequences,), {**named, "training": training})

    def _record(self, args: Sequence[Nested], kwargs: dict[str, Nested]) -> Nested:
        (sequences,) = args
        if isinstance(sequences, (list, tuple)):  # Keras 2's form, with the states in it
            sequences, *rest = sequences
            kwargs = {**kwargs, "initial_state": rest} if rest else kwargs
        return super()._record((sequences,), kwargs)

    def _checked(self, given: dict[str, Nested]) -> dict[str, Nested]:
        what = f"layer {self.name!r}"
        first = self.call_arguments[0]
        x = to_numeric(given[first], what)
        self._check_input(x.shape)
        checked = {**given, first: x}
        if "mask" in given:
            checked["mask"] = self._to_mask(given["mask"], x.shape)
        if "initial_state" in given:
            checked["initial_state"] = self._check_states(given["initial_state"], x.shape[0])
        if "constants" in given:
            fixed = [to_numeric(one, f"constants of {what}") for one in given["constants"]]
            checked["constants"] = fixed or None
        return checked

    def _returned(self, outputs: Nested) -> Nested:
        return self._nested(outputs) if isinstance(outputs, list) else outputs

    def _direct_key(self, arguments: dict[str, Nested]) -> Hashable:
        return type(self), "mask" not in arguments, "initial_state" not in arguments

    def _pass_mask(self, outputs: Nested, mask: int | None) -> Nested:
        if not self.return_sequences:
            return outputs
        if isinstance(outputs, plan.Value):
            return replace(outputs, mask=mask)
        masked = [replace(value, mask=mask) for value in outputs[: self._n_outputs]]
        return [*masked, *outputs[self._n_outputs :]]

    def reset_state(self) -> None:
        """Set a stateful layer's states to zeros."""
        self.reset_states()


def last_step_first(x: np.ndarray) -> np.ndarray:
    """Return a sequence, or its mask, (batch, timesteps, ...), with its steps in the opposite order."""
    return x[:, ::-1]


class RNN(RecurrentLayer):
    """A cell run over time.

    Parameters
    ----------
    cell : cell, or list or tuple of cells
        A SimpleRNNCell, LSTMCell, GRUCell, StackedRNNCells, or any object with

        - `state_size`: an integer, or a list of integers (or of lists of them), one a state,
        - `call(inputs, states)`, from inputs (batch, ...) and a list of states, NumPy arrays, to the output
          (batch, ...) and the new states; it may also take `constants` and `training`,
        - if it likes `output_size`, the width of the output (by default the first state's), and
          `get_initial_state(batch_size=None)`, the states to start from (by default zeros of the state sizes).

        A list is stacked.
    return_sequences : bool
        Return the outputs of all steps instead of the last one's.
    return_state : bool
        Return the final states too.
    go_backwards : bool
        Start at the last step; the outputs come in the order of processing.
    stateful : bool
        Start a call from the states that the call before it ended with.
    unroll : bool
        Changes one thing, as in Keras on TensorFlow: with `go_backwards`, `zero_output_for_mask` and `return_sequences`
        the outputs, which come in the order of processing, are zeroed by the mask in the order of the input.
    zero_output_for_mask : bool
        A masked step gives zeros instead of the output before it.
    **kwargs
        `Layer`'s arguments.

    Raises
    ------
    ValueError
        If the cell has no `call` or no `state_size`.
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
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        from fastrnn.layers.cells import StackedRNNCells, as_cell

        super().__init__(**kwargs)
        self.cell = (
            StackedRNNCells(cell, dtype=self.dtype_policy)
            if isinstance(cell, (list, tuple))
            else cell
        )
        self._cell = as_cell(self.cell, self.compute_dtype)
        if isinstance(self.cell, Layer):
            self.cell._users.append(self)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful, self.unroll = go_backwards, stateful, unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.flat_states: list[np.ndarray] | None = None

    def __getattr__(self, name: str) -> Any:
        # units, kernel_initializer and all the rest that Keras's layers forward to their cell.
        if name != "cell" and name in type(self).arguments:
            return getattr(self.cell, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _gives_zeros(self) -> bool:
        """Whether masked steps give zeros."""
        return self.zero_output_for_mask and self.zeroes_masked_steps

    @property
    def states(self) -> list[Any] | None:
        """list of ndarray or None: a stateful layer's current states, (batch, ...), nested as the cell's are."""
        return None if self.flat_states is None else self._cell.structured(self.flat_states)

    @property
    def n_states(self) -> int:
        """int: the number of arrays in the states."""
        return self._cell.n_states

    def _children(self) -> list[tuple[str, Layer | list[Layer]]]:
        return [("cell", self.cell)] if isinstance(self.cell, Layer) else []

    def get_config(self) -> Config:
        config = super().get_config()
        return {**config, **{option: getattr(self, option) for option in self.options}}

    @classmethod
    def from_config(cls, config: Config, custom_objects: Mapping[str, Any] | None = None) -> Self:
        if isinstance(config.get("cell"), dict):
            config = {**config, "cell": deserialize(config["cell"], custom_objects)}
        return cls(**config)

    def build(self, input_shape: Shape) -> None:
        self._cell.build_for((input_shape[0], *input_shape[2:]))
        if self.stateful:
            if self.flat_states is None:
                if input_shape[0] is None:
                    raise ValueError(
                        f"layer {self.name!r} is stateful: its batch size must be known; "
                        f"got the shape {tuple(input_shape)}"
                    )
                self.flat_states = self._cell.initial_state_of(input_shape[0])
            else:
                self._check_states(self.flat_states, len(self.flat_states[0]))
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Nested:
        batch, steps, *step_shape = input_shape
        size = self._cell.output_shape(tuple(step_shape))
        output = (batch, steps, *size) if self.return_sequences else (batch, *size)
        if not self.return_state:
            return output
        shapes = self._cell.state_shapes(tuple(step_shape))
        return (output, *self._entries([(batch, *shape) for shape in shapes]))

    def _entries(self, flat: Sequence[Any]) -> list[Any]:
        """Flat states as Keras returns them after an output: each state of a cell, or one entry a cell of a stack."""
        return self._cell.structured(flat)

    def _shape_of_inputs(self, ndim: int) -> Shape:
        return (None, None, *(self._cell.step_shape or (None,) * (ndim - 2)))

    def _check_input(self, shape: Shape) -> None:
        expected = self._cell.step_shape
        if len(shape) < 3 or (expected is not None and len(shape) != 2 + len(expected)):
            axes = ("features",) if expected is None or len(expected) == 1 else expected
            raise ValueError(
                f"layer {self.name!r}: expected an input {('batch', 'timesteps', *axes)}, ndim={2 + len(axes)}; "
                f"got ndim={len(shape)}, shape {tuple(shape)}"
            )
        if expected is not None and not fits(shape[2:], expected):
            raise ValueError(
                f"layer {self.name!r}: expected steps of shape {expected}; got an input of shape {tuple(shape)}"
            )
        if shape[1] == 0:
            raise ValueError(
                f"layer {self.name!r}: expected at least one timestep; got an input of shape {tuple(shape)}"
            )
        if self.flat_states is not None and shape[0] not in (None, len(self.flat_states[0])):
            raise ValueError(
                f"layer {self.name!r} is stateful with a batch of {len(self.flat_states[0])}; "
                f"got an input of shape {tuple(shape)}"
            )

    def _stateful_layers(self) -> Iterator["RNN"]:
        if self.stateful:
            yield self

    def _refuse_to_narrow(self, precision: str) -> None:
        if self.compute_dtype == np.float64:
            raise ValueError(
                f"precision {precision!r}: expected recurrent layers of float32; layer {self.name!r} is of float64"
            )

    def lower(
        self,
        builder: plan.Builder,
        x: plan.Value,
        initial_state: Nested = None,
        constants: list[plan.Value] | None = None,
    ) -> plan.Value | list[plan.Value]:
        self._check_input(x.shape)
        if constants and not self._cell.takes_constants:
            raise ValueError(f"layer {self.name!r}: its cell takes no constants")
        given = None if initial_state is None else flatten(initial_state)
        if given is not None and len(given) != self.n_states:
            raise ValueError(
                f"states of layer {self.name!r}: expected {self.n_states}; got {len(given)}"
            )
        read, initial = builder.states.get(self, ([], []))
        reads_kept = self.stateful and (given is None or self.kept_states_first)
        if reads_kept and not initial:
            shapes = self._cell.state_shapes(tuple(x.shape[2:]))
            initial = [builder.value((x.shape[0], *shape)) for shape in shapes]
            read = [value.buffer for value in initial]
        if given is not None:
            initial = self._choose_kept(builder, initial, given) if reads_kept else given
        by_unreversed_mask = (
            self._gives_zeros and self.unroll and self.go_backwards and self.return_sequences
        )
        over = OverTime(
            self.return_sequences,
            self.go_backwards,
            self._gives_zeros and not by_unreversed_mask,
            self.return_state or self.stateful,
            tuple(constants or ()),
        )
        y, final = self._cell.lower_over_time(builder, x, initial, over)
        if by_unreversed_mask and x.mask is not None:
            repeating, y = y, builder.value(y.shape)
            sources = (repeating.buffer, x.mask)
            builder.add(plan.Apply(sources, (y.buffer,), self.compute_dtype, zeroed))
        if x.mask is not None and self.masked_output != "output" and not self.unroll:
            y = self._put_out_states(builder, x, x.mask, y, initial, over)
        y = replace(y, mask=x.mask if self.return_sequences else None)
        if self.stateful:
            # A layer called again within a model goes on from where its first call ended.
            builder.states[self] = (read, final)
        return [y, *final] if self.return_state else y

    def _put_out_states(
        self,
        builder: plan.Builder,
        x: plan.Value,
        mask: int,
        y: plan.Value,
        initial: list[plan.Value],
        over: OverTime,
    ) -> plan.Value:
        """The outputs, with a cell's first state where a step is masked."""
        cells = self._cell.stacked
        if self.masked_output == "state" or len(cells) == 1:
            # The first state of Keras's cells is their output: only those before the first step that counts are others.
            states, start = y, initial[len(initial) - cells[-1].n_states :][:1]
        else:
            start, only = initial[:1], initial[: cells[0].n_states]
            whole = replace(over, zero_output_for_mask=False, final=False)
            states, _ = cells[0].lower_over_time(builder, x, only, whole)
        return put_out_states(
            builder, self.compute_dtype, y, states, mask, start, self.go_backwards
        )

    def _choose_kept(
        self, builder: plan.Builder, kept: list[plan.Value], given: list[plan.Value]
    ) -> list[plan.Value]:
        """The kept states, or the given ones if those are all zeros."""
        chosen = [builder.value(value.shape) for value in kept]

        def choose(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
            ours, theirs = arrays[: len(kept)], arrays[len(kept) :]
            return ours if any(state.any() for state in ours) else theirs

        sources = tuple(value.buffer for value in kept + given)
        targets = tuple(value.buffer for value in chosen)
        builder.add(plan.ApplySeveral(sources, targets, self._cell.compute_dtype, choose))
        return chosen

    def why_across_time(self, x: plan.Value) -> str | None:
        return "it starts at the last timestep" if self.go_backwards else None

    def lower_stream(
        self,
        builder: plan.StreamBuilder,
        x: plan.Value,
        initial_state: Nested = None,
        constants: list[plan.Value] | None = None,
    ) -> plan.Value | list[plan.Value]:
        self._check_input(x.shape)
        step_shape = tuple(x.shape[2:])
        dtype = self._cell.compute_dtype
        starts = flatten(initial_state) if initial_state is not None else self.streams_start_from()
        shapes = self._cell.state_shapes(step_shape)
        states = [
            builder.carry(f"{self.name}/{name}", shape, dtype, start)
            for name, shape, start in zip(self._cell.state_names, shapes, starts, strict=True)
        ]
        over = OverTime(
            # Over several timesteps the last one's output is that of every timestep, as of then.
            self.return_sequences or not builder.one_step,
            zero_output_for_mask=self._gives_zeros,
            final=True,
            constants=tuple(constants or ()),
        )
        initial = [state.before for state in states]
        y, final = self._cell.lower_over_time(builder, x, initial, over)
        for state, after in zip(states, final, strict=True):
            state.after = after
        if x.mask is not None and not self._gives_zeros:
            size = self._cell.output_shape(step_shape)
            held = builder.carry(f"{self.name}/output", size, dtype)
            held.after, unheld = builder.value(held.before.shape), y
            y = builder.value(unheld.shape)
            sources = (unheld.buffer, x.mask, held.before.buffer)
            targets = (y.buffer, held.after.buffer)
            builder.add(plan.Hold(sources, targets, self.compute_dtype, over.return_sequences))
        y = replace(y, mask=x.mask) if self.return_sequences else builder.as_of_now(y)
        if not self.return_state:
            return y
        when = "now" if builder.one_step else "between"
        return [y, *(plan.StreamValue(s.buffer, s.shape, None, s.dtype, when) for s in final)]

    def streams_start_from(self) -> list[Callable[[int], np.ndarray]]:
        """Return for each state, flat, the function from a batch size to what a stream starts from."""

        def start_of(number: int) -> Callable[[int], np.ndarray]:
            return lambda batch: self._cell.initial_state_of(batch)[number]

        return [start_of(number) for number in range(self.n_states)]

    def _check_states(self, states: StatesLike, batch: int | None) -> list[np.ndarray]:
        return self._cell.check_states(states, batch, f"layer {self.name!r}")

    def _nested(self, results: Sequence[np.ndarray]) -> tuple[Any, ...]:
        return (results[0], *self._entries(results[1:]))

    def reset_states(self, states: StatesLike | None = None) -> None:
        """Set a stateful layer's states.

        Parameters
        ----------
        states : nested or flat list or tuple of array-like, or one array for a layer with one state, optional
            In the structure of the attribute `states`, or flat; zeros by default. Before the first call they fix the
            batch size.

        Raises
        ------
        ValueError
            If the layer is not stateful, or a shape does not fit; the states are then as they were.
        """
        if not self.stateful:
            raise ValueError(f"layer {self.name!r} is not stateful: it has no states to reset")
        if states is not None:
            batch = None if self.flat_states is None else len(self.flat_states[0])
            self.flat_states = [state.copy() for state in self._check_states(states, batch)]
        elif self.flat_states is not None:
            self.flat_states = [np.zeros_like(state) for state in self.flat_states]
