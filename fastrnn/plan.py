"""The plan: what a layer or a model runs, in which order, on which buffers.

Layers write a plan, once (`Builder`); it is a flat list of steps over numbered buffers and knows nothing of Keras.
Every step has two forms: a kernel of the compiled core, and NumPy (`reference`). Neighbouring steps that have a
kernel become one `Program` of the core, so a plan made only of those is one call from Python; the others run in
between as NumPy. A plan does not change after it is made and keeps nothing between calls: threads can share it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from fastrnn import _core, activations, reference
from fastrnn._dispatch import build_for
from fastrnn._nested import flatten, map_structure
from fastrnn._pace import uninterrupted
from fastrnn._types import ActivationFunction, Nested, Shape
from fastrnn.dtypes import is_floating, is_half


def _kernel_name(activation: ActivationFunction) -> str | None:
    """Return the core's name for an activation, or None if it has no kernel: a rare one, or the user's own."""
    name = getattr(activation, "__name__", None)
    return name if name in _core.ACTIVATIONS and activations.get(name) is activation else None


def _elementwise_kernel_name(activation: ActivationFunction) -> str | None:
    name = _kernel_name(activation)
    return None if name in _core.ROW_ACTIVATIONS else name


def is_elementwise(activation: ActivationFunction) -> bool:
    """Return whether an activation has a kernel and works number by number, so that it can be a part of a step."""
    return _elementwise_kernel_name(activation) is not None


@dataclass(frozen=True, eq=False)
class Step:
    """One operation: reads the buffers `sources`, writes the buffers `targets`, computes in `dtype`."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    dtype: np.dtype | None

    @property
    def indices(self) -> tuple[int, ...]:
        """tuple of int: those of the sources that hold whole numbers, which are taken in whichever dtype they come."""
        return ()

    def compiled(self) -> _core.Step | None:
        """Return the step of the compiled core, or None if there is no kernel for it."""
        return None

    def explain(self, arrays: Sequence[np.ndarray]) -> dict[str, Any]:
        """Return what runs in NumPy."""
        return {"operation": getattr(self, "name", None) or type(self).__name__}

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return the targets' arrays, a tuple, from the sources', computed by NumPy."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Table:
    """Rows, (n, width), that whole numbers from 0 stand for; `owner` is the layer that an error names."""

    rows: np.ndarray
    owner: str

    def look_up(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows for an array of numbers, its shape with the width behind it.

        Raises
        ------
        ValueError
            If a number is none of a row.
        """
        whole = numbers.astype(np.int64)
        wrong = whole[(whole < 0) | (whole >= len(self.rows))]
        if wrong.size:
            raise ValueError(
                f"layer {self.owner!r}: expected integers from 0 to {len(self.rows) - 1}; got {wrong[0]}"
            )
        return self.rows[whole]


@dataclass(frozen=True, eq=False)
class Recurrence(Step):
    """A cell over time; sources are x, the mask, the initial states and the constants; targets y, then states.

    `kernel` is what the core calls the cell, None where it has no kernel for it. Constants are arrays that the cell
    of a user takes at every step. With a table, x holds the numbers of its rows, and the core looks up their products
    with the cell's kernel. `precision` is that of the core's products: "bfloat16", "int8", or None for dtype.
    """

    cell: reference.Cell
    kernel: str | None = None
    masked: bool = False
    return_sequences: bool = False
    go_backwards: bool = False
    zero_output_for_mask: bool = False
    n_constants: int = 0
    table: Table | None = None
    precision: str | None = None

    @property
    def indices(self) -> tuple[int, ...]:
        return () if self.table is None else self.sources[:1]

    def compiled(self) -> _core.Step | None:
        cell: Any = self.cell
        if self.kernel is None:
            return None
        activation = _elementwise_kernel_name(cell.activation)
        recurrent_activation = _elementwise_kernel_name(
            getattr(cell, "recurrent_activation", cell.activation)
        )
        if activation is None or recurrent_activation is None:
            return None
        first_state = 2 if self.masked else 1
        return self._kernel_step(
            activation,
            recurrent_activation,
            x=self.sources[0],
            mask=self.sources[1] if self.masked else None,
            initial=self.sources[first_state:],
            y=self.targets[0],
            final=self.targets[1:],
            return_sequences=self.return_sequences,
            go_backwards=self.go_backwards,
            zero_output_for_mask=self.zero_output_for_mask,
        )

    def _kernel_step(
        self, activation: str, recurrent_activation: str, **over_time: Any
    ) -> _core.Step:
        """The core's step; what it does over time is `over_time`."""
        cell: Any = self.cell
        assert self.kernel is not None
        return _core.Recurrent(
            build_for(self.dtype),
            self.kernel,
            cell.kernel,
            cell.recurrent_kernel,
            cell.bias,
            getattr(cell, "recurrent_bias", None),
            activation,
            recurrent_activation,
            table=None if self.table is None else self.table.rows,
            precision=self.precision,
            **over_time,
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        cell: Any = self.cell
        x, *others = arrays
        mask = others.pop(0) if self.masked else None
        if self.n_constants:
            cell = cell.with_constants(others[-self.n_constants :])
            others = others[: -self.n_constants]
        if self.table is not None:
            x = self.table.look_up(x)
        y, states = reference.recurrence(
            cell,
            x,
            tuple(others) or None,
            mask,
            return_sequences=self.return_sequences,
            go_backwards=self.go_backwards,
            zero_output_for_mask=self.zero_output_for_mask,
        )
        return (y, *states[: len(self.targets) - 1])


class ConvRecurrence(Recurrence):
    """A ConvLSTM over time; `cell` is `reference.ConvLSTM`."""

    def _kernel_step(
        self, activation: str, recurrent_activation: str, **over_time: Any
    ) -> _core.Step:
        cell: Any = self.cell
        return _core.ConvRecurrent(
            build_for(self.dtype),
            cell.kernel,
            cell.recurrent_kernel,
            cell.bias,
            activation,
            recurrent_activation,
            cell.strides,
            cell.dilation,
            same=cell.padding == "same",
            channels_first=cell.channel_axis == 1,
            **over_time,
        )


@dataclass(frozen=True, eq=False)
class Dense(Step):
    """activation(x @ kernel + bias)."""

    kernel: np.ndarray
    bias: np.ndarray | None
    activation: ActivationFunction

    def compiled(self) -> _core.Dense | None:
        name = _elementwise_kernel_name(self.activation)
        if name is None:
            return None
        return _core.Dense(
            build_for(self.dtype),
            self.kernel,
            self.bias,
            name,
            x=self.sources[0],
            y=self.targets[0],
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        return (reference.dense(x, self.kernel, self.bias, self.activation),)


@dataclass(frozen=True, eq=False)
class Activate(Step):
    """activation(x)."""

    activation: ActivationFunction

    def compiled(self) -> _core.Activate | None:
        name = _kernel_name(self.activation)
        if name is None:
            return None
        return _core.Activate(build_for(self.dtype), name, x=self.sources[0], y=self.targets[0])

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        return (np.asarray(self.activation(x), self.dtype),)


@dataclass(frozen=True, eq=False)
class Merge(Step):
    """The outputs of two directions as one; with `backwards` the second's steps come last first."""

    mode: str
    backwards: bool = False

    def compiled(self) -> _core.Step:
        a, b = self.sources
        return _core.Merge(
            build_for(self.dtype), self.mode, a=a, b=b, y=self.targets[0], backwards=self.backwards
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        a, b = arrays
        return (reference.merge(a, b[:, ::-1] if self.backwards else b, self.mode),)


@dataclass(frozen=True, eq=False)
class Lookup(Step):
    """The rows of a table that whole numbers stand for."""

    table: Table

    @property
    def indices(self) -> tuple[int, ...]:
        return self.sources

    def compiled(self) -> _core.Lookup:
        return _core.Lookup(
            build_for(self.dtype), self.table.rows, x=self.sources[0], y=self.targets[0]
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return (self.table.look_up(arrays[0]),)


@dataclass(frozen=True, eq=False)
class NotZero(Step):
    """The mask of whole numbers that are not 0."""

    @property
    def indices(self) -> tuple[int, ...]:
        return self.sources

    def compiled(self) -> _core.NotZero:
        return _core.NotZero(build_for(self.dtype), x=self.sources[0], y=self.targets[0])

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return (arrays[0] != 0,)


@dataclass(frozen=True, eq=False)
class Blank(Step):
    """x with zeros for the steps whose features all equal `value`, and the mask of the others."""

    value: float

    def compiled(self) -> _core.Blank:
        y, mask = self.targets
        return _core.Blank(build_for(self.dtype), self.value, x=self.sources[0], y=y, mask=mask)

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        counts = np.any(x != x.dtype.type(self.value), axis=-1)
        return np.where(counts[..., np.newaxis], x, x.dtype.type(0)), counts


@dataclass(frozen=True, eq=False)
class Affine(Step):
    """(x - center) scale + shift over the last axis; each of the three (features,) of the step's dtype."""

    center: np.ndarray
    scale: np.ndarray
    shift: np.ndarray

    def compiled(self) -> _core.Affine | None:
        if not len(self.center):
            return None  # the kernel divides by the features
        return _core.Affine(
            build_for(self.dtype),
            self.center,
            self.scale,
            self.shift,
            x=self.sources[0],
            y=self.targets[0],
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return ((arrays[0] - self.center) * self.scale + self.shift,)


@dataclass(frozen=True, eq=False)
class Reshape(Step):
    """The numbers of each row in another shape, in which one size may be -1: what is left."""

    shape: tuple[int, ...]

    def compiled(self) -> _core.Reshape:
        return _core.Reshape(
            build_for(self.dtype), self.shape, x=self.sources[0], y=self.targets[0]
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        known = -int(np.prod(self.shape)) if -1 in self.shape else 1
        left = x[0].size // known if len(x) else int(np.prod(x.shape[1:])) // known
        return (x.reshape(len(x), *(left if size == -1 else size for size in self.shape)),)


@dataclass(frozen=True, eq=False)
class Repeat(Step):
    """(batch, features) to (batch, n, features)."""

    n: int

    def compiled(self) -> _core.Repeat:
        return _core.Repeat(build_for(self.dtype), self.n, x=self.sources[0], y=self.targets[0])

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return (np.repeat(arrays[0][:, np.newaxis], self.n, axis=1),)


@dataclass(frozen=True, eq=False)
class Pool(Step):
    """Windows of (batch, steps, channels) as their maxima or averages; `function` is the same in NumPy.

    `window` 0 is all steps at once, without their axis; sources are x and, then, perhaps the mask of what counts.
    """

    mode: str
    function: Callable[..., np.ndarray]
    window: int = 0
    stride: int = 1
    same: bool = False

    def compiled(self) -> _core.Pool:
        x, *mask = self.sources
        return _core.Pool(
            build_for(self.dtype),
            self.mode,
            x=x,
            y=self.targets[0],
            mask=mask[0] if mask else None,
            window=self.window,
            stride=self.stride,
            same=self.same,
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return (np.asarray(self.function(*arrays), self.dtype),)


@dataclass(frozen=True, eq=False)
class Window(Step):
    """What a causal convolution sees at every timestep, and the inputs that later timesteps will see.

    Sources x (batch, steps, features) and the inputs before it (batch, (taps - 1) * dilation, features); targets
    (batch, steps, taps * features), the oldest tap first, and the inputs before the next x.
    """

    taps: int
    dilation: int

    def compiled(self) -> _core.Window:
        (x, before), (y, after) = self.sources, self.targets
        return _core.Window(
            build_for(self.dtype), self.taps, self.dilation, x=x, before=before, y=y, after=after
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        x, before = arrays
        steps, seen = x.shape[1], np.concatenate([before, x], axis=1)
        taps = [seen[:, i * self.dilation :][:, :steps] for i in range(self.taps)]
        return np.concatenate(taps, axis=-1), seen[:, steps:]


@dataclass(frozen=True, eq=False)
class Hold(Step):
    """The outputs of a recurrence whose sequence began in an earlier call.

    Sources y (batch, steps, ...), or (batch, ...) of the last step; the mask; and the output before (batch, ...): a
    masked step repeats it until the first one that counts. Targets y and the last output.
    """

    sequence: bool

    def compiled(self) -> _core.Hold:
        (x, mask, before), (y, after) = self.sources, self.targets
        return _core.Hold(
            build_for(self.dtype),
            x=x,
            mask=mask,
            before=before,
            y=y,
            after=after,
            sequence=self.sequence,
        )

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        x, mask, before = arrays
        begun = np.logical_or.accumulate(mask, axis=1)
        if not self.sequence:
            y = np.where(begun[:, -1].reshape(-1, *[1] * (x.ndim - 1)), x, before)
            return y, y
        y = np.where(begun.reshape(*begun.shape, *[1] * (x.ndim - 2)), x, before[:, np.newaxis])
        return y, y[:, -1]


@dataclass(frozen=True, eq=False)
class Constant(Step):
    """The same numbers whatever comes, for a batch of as many rows; one row is every row of a batch.

    The one source tells the batch; `owner` is the layer that an error names.
    """

    array: np.ndarray
    owner: str

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        rows = len(arrays[0])
        if len(self.array) not in (1, rows):
            raise ValueError(
                f"layer {self.owner!r}: expected a batch of {len(self.array)} rows, as its constant has; got {rows}"
            )
        return (np.broadcast_to(self.array, (rows, *self.array.shape[1:])),)


@dataclass(frozen=True, eq=False)
class Apply(Step):
    """A function of arrays in NumPy, for what is not worth a kernel; takes them as they come if dtype is None."""

    function: Callable[..., Any]
    result: np.dtype | None = None
    """The result's dtype, where it is not `dtype`."""

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return (np.asarray(self.function(*arrays), self.result or self.dtype),)


@dataclass(frozen=True, eq=False)
class ApplySeveral(Apply):
    """As `Apply`, for a function that returns arrays in any nesting, for one target or several."""

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        results = flatten(self.function(*arrays))
        return tuple(np.asarray(result, self.result or self.dtype) for result in results)


@dataclass(frozen=True, eq=False)
class EveryStep(Step):
    """A plan of its own for every step of a sequence; sources x, the mask, states; targets y, states.

    `plan` goes from one step's x, mask and states to its y and states. Without states all steps are one batch.
    """

    plan: "Plan"
    masked: bool
    name: str

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        n_sequences = 2 if self.masked else 1
        sequences, states = list(arrays[:n_sequences]), list(arrays[n_sequences:])
        if self.masked and sequences[1].ndim < 3:
            raise ValueError(
                f"layer {self.name!r}: expected a mask (batch, timesteps, steps), with a mask for the layer inside "
                f"at every step; got shape {sequences[1].shape}"
            )
        batch, steps = sequences[0].shape[:2]
        if not states:
            flat = [sequence.reshape(-1, *sequence.shape[2:]) for sequence in sequences]
            (y,) = self.plan.run(flat)
            return (y.reshape(batch, steps, *y.shape[1:]),)
        outputs = []
        for t in range(steps):
            output, *states = self.plan.run([*(sequence[:, t] for sequence in sequences), *states])
            outputs.append(output)
        return (np.stack(outputs, axis=1), *states)


@dataclass(frozen=True)
class Value:
    """What flows between layers while they write a plan.

    Attributes
    ----------
    buffer : int
    shape : tuple of int or None
        With the batch; None where it is not known before a call.
    mask : int or None
        The buffer, (batch, time) of bool, that says which steps of it count.
    dtype : numpy.dtype or None
        What callers see the values in, where it is known.
    """

    buffer: int
    shape: Shape
    mask: int | None = None
    dtype: np.dtype | None = None


@dataclass(frozen=True)
class StreamValue(Value):
    """What flows between layers while they write the steps of a stream.

    Attributes
    ----------
    when : {"sequence", "now", "start", "between"}
        What the whole sequence would have: a sequence, whose axis 1 is the stream's timesteps; something that depends
        on all timesteps so far and has no such axis, as of now; something that does not depend on them; or a state
        after every timestep, of which only the last one is there.
    """

    when: str = "sequence"


def values_in(structure: Nested) -> list[Value]:
    """Return the Values among what a nested structure holds."""
    return [leaf for leaf in flatten(structure) if isinstance(leaf, Value)]


def filled(structure: Nested, arrays: Iterable[np.ndarray]) -> Nested:
    """Return a nested structure with arrays, in the order of `values_in`, for its Values."""
    rest = iter(arrays)
    return map_structure(lambda leaf: next(rest) if isinstance(leaf, Value) else leaf, structure)


class Stateful(Protocol):
    """A layer that keeps states between calls; `flat_states` is a list of ndarray once the layer is built."""

    flat_states: Any


LEAST_UNITS_OF_INT8 = 64
"""Units below which int8 saves no time beside bfloat16 but errs more: a SimpleRNN of 32 by 0.083 and not 0.011."""


@dataclass
class Builder:
    """Collects the steps and buffers of a plan.

    Attributes
    ----------
    states : dict
        For each stateful layer the buffers of its states before the call, none where it does not read them, and
        the values after it.
    precision : str or None
        That of the recurrences' products, "bfloat16" or "int8"; None for their own.
    masks_taken : set of int
        Buffers whose Values carry no mask in later calls of a model: a layer took it from the tensor itself.
    """

    steps: list[Step] = field(default_factory=list)
    n_buffers: int = 0
    masks: set[int] = field(default_factory=set)
    masks_taken: set[int] = field(default_factory=set)
    states: dict[Stateful, tuple[list[int], list[Value]]] = field(default_factory=dict)
    precision: str | None = None

    def value(
        self, shape: Iterable[int | None], mask: int | None = None, dtype: DTypeLike | None = None
    ) -> Value:
        """Return a new buffer's value."""
        self.n_buffers += 1
        known = None if dtype is None else np.dtype(dtype)
        return Value(self.n_buffers - 1, tuple(shape), mask, known)

    def mask(self) -> int:
        """Return a new buffer of booleans."""
        self.masks.add(self.value(()).buffer)
        return self.n_buffers - 1

    def add(self, step: Step) -> None:
        if type(step) is Recurrence:
            step = replace(step, precision=self._precision_of(step))
        self.steps.append(step)

    def _precision_of(self, step: Recurrence) -> str | None:
        """The precision of a recurrence's products."""
        cell: Any = step.cell
        few = step.kernel is not None and len(cell.recurrent_kernel) < LEAST_UNITS_OF_INT8
        return "bfloat16" if self.precision == "int8" and few else self.precision

    def lower(self, layer: Any, x: Any, arguments: dict[str, Any]) -> Any:
        """Have a layer write its steps; returns what its `lower` does."""
        return layer.lower(self, x, **arguments)

    def plan(self, inputs: Sequence[int], outputs: Sequence[int]) -> "Plan":
        """Return the plan from input buffers to output buffers, with what can be computed ahead folded away."""
        from fastrnn.folding import fold  # its rules know the steps above

        return Plan(fold(self.steps, outputs), inputs, outputs, self.n_buffers, self.masks)


@dataclass
class Carried:
    """A state that a stream carries from one call to the next.

    Attributes
    ----------
    name : str
    before, after : Value
        The state before and after the steps, (batch, ...).
    dtype : numpy.dtype
    start : callable or StreamValue
        The state before the first step: an array for a batch size, or what is computed at the start.
    """

    name: str
    before: Value
    dtype: np.dtype
    start: "Callable[[int], np.ndarray] | StreamValue"
    after: Value | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """tuple of int: without the batch."""
        return tuple(size or 0 for size in self.before.shape[1:])


@dataclass
class StreamBuilder(Builder):
    """Collects the steps that take a stream from one timestep to the next, or over several at once.

    Attributes
    ----------
    one_step : bool
        Whether they are for one timestep at a time, and then for everything in the model.
    tail : Builder
        Where the steps after the last sequence go. They know nothing of time: with several timesteps these are rows of
        a batch to them.
    crossings : list of (int, Value, bool)
        What goes over into the tail: a buffer here; there its value; and whether that keeps an axis for its timestep.
    carried : list of Carried
    path : list of str
        Names of the models around the layer that writes now.
    """

    one_step: bool = True
    crossings: list[tuple[int, Value, bool]] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    path: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tail = self if self.one_step else Builder(precision=self.precision)

    def lower(self, layer: Any, x: Any, arguments: dict[str, Any]) -> Any:
        return layer.lower_stream(self, x, **arguments)

    def carry(
        self,
        name: str,
        shape: Shape,
        dtype: np.dtype,
        start: "Callable[[int], np.ndarray] | StreamValue | None" = None,
    ) -> Carried:
        """Return a new state, of this shape without the batch; zeros at the start by default.

        Raises
        ------
        ValueError
            If a size is not known.
        """
        name = "/".join([*self.path, name])
        sizes = [size for size in shape if size is not None]
        if len(sizes) < len(shape):
            raise ValueError(f"state {name!r} of a stream: expected known sizes; got {shape}")

        def zeros(batch: int) -> np.ndarray:
            return np.zeros((batch, *sizes), dtype)

        names = {state.name for state in self.carried}
        numbers = (number for number in range(1, len(names) + 2))
        unused = next(n for n in (name, *(f"{name}#{i}" for i in numbers)) if n not in names)
        self.carried.append(
            Carried(unused, self.value((None, *shape)), np.dtype(dtype), start or zeros)
        )
        return self.carried[-1]

    def as_of_now(self, x: Value, keep_axis: bool = False) -> StreamValue:
        """Return the value, (batch, steps, ...), in the tail: every timestep for itself, with `keep_axis` (1, ...)."""
        if self.one_step:
            return StreamValue(x.buffer, x.shape, x.mask if keep_axis else None, x.dtype, "now")
        inside = (1, *x.shape[2:]) if keep_axis else x.shape[2:]
        there = self.tail.value((None, *inside), dtype=x.dtype)
        self.crossings.append((x.buffer, there, keep_axis))
        return StreamValue(there.buffer, there.shape, None, x.dtype, "now")


class Plan:
    """Steps from input buffers to output buffers, ready to run.

    Parameters
    ----------
    steps : list of Step
    inputs, outputs : sequence of int
        Buffers, in the order in which `run` takes and gives their arrays.
    n_buffers : int
    masks : set of int
        Buffers of booleans.

    Attributes
    ----------
    program : fastrnn core Program or None
        The whole plan, where it is nothing but compiled steps of one dtype from its inputs to its outputs.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        inputs: Iterable[int],
        outputs: Iterable[int],
        n_buffers: int,
        masks: Collection[int] = (),
    ) -> None:
        self.steps, self.inputs, self.outputs = tuple(steps), tuple(inputs), tuple(outputs)
        self.n_buffers, self.masks = n_buffers, frozenset(masks)
        self._segments = self._group()
        self.program: _core.Program | None = None
        match self._segments:
            case [_Segment(inputs=self.inputs, outputs=self.outputs) as whole]:
                self.program = whole.program

    @property
    def rows(self) -> int | None:
        """int or None: the one batch size that the plan's constants have rows for; None if it takes any."""
        sizes = (len(step.array) for step in self.steps if isinstance(step, Constant))
        return next((size for size in sizes if size > 1), None)

    def _group(self) -> "list[_Segment | Step]":
        """Neighbouring compiled steps of one dtype as segments, the other steps as they are."""
        groups: list[_Group] = []
        for step in self.steps:
            kernel = step.compiled()
            if not (groups and kernel is not None and groups[-1].takes(step)):
                groups.append(_Group())
            groups[-1].add(step, kernel)
        needed = set(self.outputs)
        segments: list[_Segment | Step] = []
        for group in reversed(groups):
            steps, compiled = group.steps, group.kernels
            made = {target for step in steps for target in step.targets}
            read = {source for step in steps for source in step.sources} - made
            if compiled:
                # A whole plan's own order, so that its one segment can take the caller's arrays as they come.
                segment_inputs = self.inputs if read == set(self.inputs) else tuple(sorted(read))
                given = made & needed
                segment_outputs = (
                    self.outputs if sorted(given) == sorted(self.outputs) else tuple(sorted(given))
                )
                program = _core.Program(
                    build_for(steps[0].dtype),
                    self.n_buffers,
                    compiled,
                    segment_inputs,
                    segment_outputs,
                    self.masks & read,
                )  # fmt: skip
                segments.append(
                    _Segment(program, segment_inputs, segment_outputs, steps[0].dtype, tuple(steps))
                )
            else:
                segments.append(steps[0])
            needed = needed - made | read
        return segments[::-1]

    def run(
        self,
        arrays: Sequence[np.ndarray],
        compiled: bool = True,
        seen: list[dict[str, Any]] | None = None,
    ) -> list[np.ndarray]:
        """Run the steps.

        Parameters
        ----------
        arrays : sequence of ndarray
            The inputs; they are converted where a step needs another dtype or a contiguous array.
        compiled : bool
            Use the compiled core; otherwise every step runs in NumPy (for tests).
        seen : list, optional
            Gets what runs: for each program what `_core.Program.explain` tells, for each step in NumPy its "operation".

        Returns
        -------
        list of ndarray
            The outputs; none is an input.
        """
        if self.program is not None and compiled and seen is None:
            results = self.program.run(tuple(arrays))
            if results is not None:
                return list(results) if isinstance(results, tuple) else [results]
        values = dict(zip(self.inputs, arrays, strict=True))
        for part in self._segments if compiled else self.steps:
            sources = part.inputs if isinstance(part, _Segment) else part.sources
            targets = part.outputs if isinstance(part, _Segment) else part.targets
            converted = [
                _whole_numbers(values[number])
                if number in part.indices
                else np.asarray(
                    values[number], np.bool_ if number in self.masks else part.dtype, order="C"
                )
                for number in sources
            ]
            if seen is not None:
                seen.append(part.explain(converted))
            with np.errstate(all="ignore"):
                values.update(zip(targets, part.run(converted), strict=True))
        outputs: list[np.ndarray] = []
        for number in self.outputs:
            array = values[number]
            # A step in NumPy may return what it was given, and a buffer may be given out twice.
            shared = any(np.may_share_memory(array, other) for other in [*arrays, *outputs])
            outputs.append(array.copy() if shared else array)
        return outputs


class _Group:
    """Neighbouring compiled steps of one dtype, for one program, or one step without a kernel."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.kernels: list[_core.Step] = []
        self._indices: set[int] = set()
        self._used: set[int] = set()

    def add(self, step: Step, kernel: "_core.Step | None") -> None:
        self.steps.append(step)
        if kernel is not None:
            self.kernels.append(kernel)
        self._indices.update(step.indices)
        self._used.update(step.sources, step.targets)

    def takes(self, step: Step) -> bool:
        """Whether a step with a kernel may join: what is indices to a step of a program is no numbers to another."""
        if not self.kernels or self.steps[0].dtype != step.dtype:
            return False
        own = set(step.indices)
        if any(source in self._used and source not in self._indices for source in own):
            return False
        return self._indices.isdisjoint(set(step.sources) - own)


def index_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype in which the core takes indices that come in this one."""
    known = dtype.kind in "if" and dtype.itemsize in (4, 8)
    return dtype.newbyteorder("=") if known else np.dtype(np.int64)


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    """`array` in the form in which the core takes indices."""
    return np.ascontiguousarray(array, index_dtype(array.dtype))


@dataclass(frozen=True)
class _Segment:
    """Neighbouring steps as one program of the core."""

    program: _core.Program
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dtype: np.dtype | None
    steps: tuple[Step, ...]

    @property
    def indices(self) -> set[int]:
        return {source for step in self.steps for source in step.indices}

    def explain(self, arrays: Sequence[np.ndarray]) -> dict[str, Any]:
        return self.program.explain([array.shape for array in arrays])

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        results = self.program.run(tuple(arrays))
        if results is None:
            given = dict(zip(self.inputs, arrays, strict=True))
            if any(array.ndim < 2 for array in arrays):
                return self._run_in_numpy(given)  # a batch of numbers has no kernels
            for step in self.steps:
                if isinstance(step, (Lookup, Recurrence)) and step.table is not None:
                    step.table.look_up(given[step.sources[0]])
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise ValueError(f"arrays of shapes {shapes} do not fit the layers they are given to")
        return results if isinstance(results, tuple) else (results,)

    def _run_in_numpy(self, values: dict[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        for step in self.steps:
            results = step.run([values[number] for number in step.sources])
            values.update(zip(step.targets, results, strict=True))
        return tuple(values[number] for number in self.outputs)


class Executable:
    """A plan together with the stateful layers whose states pass through it.

    Parameters
    ----------
    builder : Builder
    inputs : list of int
        The caller's buffers; the states' come after them.
    outputs : list of Value
        What the caller gets, in their dtypes where these are known.
    """

    def __init__(self, builder: Builder, inputs: Sequence[int], outputs: Sequence[Value]) -> None:
        self._stateful = list(builder.states)
        self._reads_states = [layer for layer, (before, _) in builder.states.items() if before]
        self._n_outputs = len(outputs)
        before = [buffer for buffers, _ in builder.states.values() for buffer in buffers]
        after = [value.buffer for _, values in builder.states.values() for value in values]
        wanted = [*(value.buffer for value in outputs), *after]
        different = list(dict.fromkeys(wanted))
        # A state that is returned and kept, or an output that is given twice, is computed once.
        self._places = [different.index(buffer) for buffer in wanted]
        self.plan = builder.plan([*inputs, *before], different)
        made = {(target, step.dtype) for step in self.plan.steps for target in step.targets}
        self._casts = [
            None if (value.buffer, value.dtype) in made else value.dtype for value in outputs
        ]
        self._casts_any = any(dtype is not None for dtype in self._casts)

    def __call__(
        self, arrays: Sequence[np.ndarray], compiled: bool = True, keep_states: bool = True
    ) -> list[np.ndarray]:
        """Run the plan on the caller's arrays, a list; returns the list of its outputs. Errors leave states alone."""
        results = self.plan.run([*arrays, *self._states()], compiled)
        return self._shared_out(results, keep_states)

    def _states(self) -> list[np.ndarray]:
        return [state for layer in self._reads_states for state in layer.flat_states]

    def _shared_out(
        self, results: Sequence[np.ndarray], keep_states: bool = True
    ) -> list[np.ndarray]:
        """What the caller gets of a plan's results; the stateful layers keep the rest."""
        if len(results) < len(self._places):
            first = {place: number for number, place in reversed([*enumerate(self._places)])}
            results = [
                results[place] if first[place] == number else results[place].copy()
                for number, place in enumerate(self._places)
            ]
        if keep_states and self._stateful:
            self._keep(results[self._n_outputs :])
        outputs = results[: self._n_outputs]
        if not self._casts_any:
            return list(outputs)
        return [converted(array, dtype) for array, dtype in zip(outputs, self._casts, strict=True)]

    def _keep(self, states: Sequence[np.ndarray]) -> None:
        """Give the stateful layers their states, all of them or none."""
        if len(self._stateful) == 1:
            self._stateful[0].flat_states = list(states)
            return
        after = iter(states)
        new = [[next(after) for _ in layer.flat_states] for layer in self._stateful]
        uninterrupted(setattr, self._stateful, ["flat_states"] * len(new), new)

    def explain(self, arrays: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Return what runs on such arrays, in its order, as `Plan.run` tells it. States stay as they are."""
        seen: list[dict[str, Any]] = []
        states = [state for layer in self._reads_states for state in layer.flat_states]
        self.plan.run([*arrays, *states], seen=seen)
        return seen

    def run_directly(
        self, shapes: Sequence[Shape], dtypes: Sequence[np.dtype | None]
    ) -> Callable[[Any], Any] | None:
        """Return the core's own function from the inputs to the outputs, each an array or a tuple of several, or None.

        Parameters
        ----------
        shapes : list of tuple
            The inputs', None for an unknown size. The function returns None for arrays that are not of its form.
        dtypes : list of dtype or None
            What the inputs are converted to first, None for masks; the function takes the core's own dtype only, and
            whole numbers as such where the steps look something up.
        """
        program = self.plan.program
        if program is None:
            return None
        indices = {number for step in self.plan.steps for number in step.indices}
        whole = False
        for number, dtype in zip(self.plan.inputs, dtypes, strict=False):
            if dtype is None:
                continue
            if number in indices and not is_half(dtype):
                whole = whole or not is_floating(dtype)
            elif dtype != self.plan.steps[0].dtype:
                return None
        program.expect([*shapes, *((None,) * state.ndim for state in self._states())], whole)
        run: Callable[[Any], Any] = program.run
        if not (self._stateful or self._casts_any or len(self._places) > len(self.plan.outputs)):
            return run

        unread = [layer for layer in self._stateful if layer not in self._reads_states]

        def run_and_share_out(arrays: Any) -> Any:
            if self._stateful:
                given = arrays if isinstance(arrays, tuple) else (arrays,)
                if unread and any(len(given[0]) != len(layer.flat_states[0]) for layer in unread):
                    return None  # states that are read tell the core as much
                arrays = (*given, *self._states())
            results = run(arrays)
            if results is None:
                return None
            outputs = self._shared_out(results if isinstance(results, tuple) else (results,))
            return outputs[0] if self._n_outputs == 1 else tuple(outputs)

        return run_and_share_out

    def takes_empty(self, shape: Shape) -> bool:
        """Return whether the core takes the one input with size 0 along an axis whose size `shape` leaves open."""
        program = self.plan.program
        assert program is not None
        sizes = [1 if size is None else size for size in shape[1:]]
        unknown = [axis for axis, size in enumerate(shape[1:]) if size is None]
        indices = {number for step in self.plan.steps for number in step.indices}
        dtype = np.dtype(np.int32) if self.plan.inputs[0] in indices else self.plan.steps[0].dtype
        states = [state[:0] for state in self._states()]
        for axes in [unknown, *([axis] for axis in unknown)]:
            trial = [0 if axis in axes else size for axis, size in enumerate(sizes)]
            x = np.zeros((0, *trial), dtype)  # no rows, so that nothing is computed
            if unknown and program.run((x, *states)) is not None:
                return True
        return False


def converted(array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Return floating-point numbers in `dtype`; anything else, and anything for None, as it is."""
    if dtype is None or array.dtype.kind not in "fV":
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)
