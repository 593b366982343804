"""Streams: models that run one timestep at a time, on states that are kept from call to call.

A model's layers write the steps of a stream as they write those of a whole sequence (`Layer.lower_stream`): from one
timestep, or several, and the states before it, to the outputs and the states after it. What comes behind the last
sequence, such as a Dense on the last output of an LSTM, knows no time: with several timesteps at once these are rows
of a batch to it. What does not depend on the streamed inputs is computed once, at the start.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import _core
from fastrnn._nested import flatten, map_structure, unflatten
from fastrnn._pace import Joined, Pace, uninterrupted
from fastrnn._types import Nested
from fastrnn.dtypes import HALVES, as_dtype, is_floating, rounded
from fastrnn.errors import NotStreamableError
from fastrnn.layers.arguments import to_numeric
from fastrnn.layers.base import Layer
from fastrnn.layers.core import InputLayer, positive_integer
from fastrnn.layers.operations import Operation
from fastrnn.layers.rnn import RNN
from fastrnn.model_inputs import fitted
from fastrnn.plan import Builder, Plan, StreamBuilder, StreamValue, Value, converted
from fastrnn.snapshots import pack, unpack

if TYPE_CHECKING:
    from fastrnn.model import Model

_TRIED_STEPS = 5


class _OneByOne(Exception):
    """Several timesteps cannot be written at once, since a state after each of them is needed."""


class _Writer:
    """Writes the steps of a model's stream, layer by layer.

    Parameters
    ----------
    model : Model
    given : collection of str
        Names of the inputs that are given at the start.
    one_step : bool
        For one timestep at a time, or for several.

    Attributes
    ----------
    builder : StreamBuilder
    begin : Builder
        The steps that run once, at the start.
    begin_inputs : list of int
        Their inputs' buffers.
    needed : dict
        From the buffer, in `begin`, of each value from the start that a step needs, to that value.
    imported : dict
        From the builder's identity and such a buffer to the value there.
    x : list of Value
        The streamed inputs.
    outputs : StreamValue in the structure of the model's outputs
    """

    def __init__(self, model: "Model", given: frozenset[str], one_step: bool) -> None:
        self.builder = StreamBuilder(one_step=one_step, precision=model._precision)
        self.begin = Builder(precision=model._precision)
        self.begin_inputs: list[int] = []
        self.needed: dict[int, StreamValue] = {}
        self.imported: dict[tuple[int, int], Value] = {}
        self.x: list[Value] = []
        self._stateful: set[Layer] = set()
        values: list[Value] = []
        for layer in model._inputs:
            shape, dtype = layer.batch_shape, as_dtype(layer.input_dtype)
            if layer.name in given:
                value = self.begin.value((None, *shape[1:]), dtype=dtype)
                self.begin_inputs.append(value.buffer)
                values.append(_stream_value(value, "start"))
                continue
            if len(shape) < 2:
                raise NotStreamableError(
                    f"input {layer.name!r}: expected a sequence, (batch, steps, ...); got shape {shape}; what is no "
                    "sequence can be given at the start"
                )
            steps = 1 if one_step else None
            self.x.append(self.builder.value((None, steps, *shape[2:]), dtype=dtype))
            values.append(_stream_value(self.x[-1], "sequence"))
        outputs = model._lower_graph(self.builder, values, lower_call=self._lower_call)
        if any(value.when == "between" for value in flatten(outputs)):
            raise _OneByOne
        self.outputs = map_structure(self._into_tail, outputs)

    def _into_tail(self, value: StreamValue) -> StreamValue:
        return self._import(self.builder.tail, value) if value.when == "start" else value

    def _import(self, builder: Builder, value: StreamValue) -> StreamValue:
        """A value from the start as one of `builder`."""

        def buffer_of(one: StreamValue, mask: bool) -> int:
            self.needed[one.buffer] = one
            key = id(builder), one.buffer
            if key not in self.imported:
                there = builder.mask() if mask else builder.value(one.shape).buffer
                self.imported[key] = Value(there, one.shape)
            return self.imported[key].buffer

        mask = value.mask
        if mask is not None:
            mask = buffer_of(StreamValue(mask, value.shape[:2], dtype=np.dtype(bool)), True)
        return replace(value, buffer=buffer_of(value, value.buffer in self.begin.masks), mask=mask)

    def _import_all(self, builder: Builder, structure: Nested) -> Nested:
        return map_structure(
            lambda leaf: (
                self._import(builder, leaf) if getattr(leaf, "when", None) == "start" else leaf
            ),
            structure,
        )

    def _lower_call(
        self, layer: Layer, builder: Builder, args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> Nested:
        """Write a call: at the start, over time or in the tail, as what it takes tells."""
        from fastrnn.model import Model

        is_function = isinstance(layer, Operation) or type(layer).call is not Layer.call
        if not is_function and any(
            isinstance(leaf, np.ndarray) for leaf in flatten([list(args), kwargs])
        ):
            raise _refusal(
                layer, "it is given a constant, which has no timestep or no stream of its own"
            )
        if isinstance(layer, Model):
            return self._lower_model(layer, args, kwargs)
        leaves = [leaf for leaf in flatten([list(args), kwargs]) if isinstance(leaf, StreamValue)]
        whens = {leaf.when for leaf in leaves}
        if "between" in whens:
            raise _OneByOne
        if whens <= {"start"}:
            outputs = layer.lower_call(self.begin, args, kwargs)
            self._refuse_states(layer, self.begin)
            return _as(outputs, "start")
        if "sequence" not in whens:
            tail = self.builder.tail
            args, kwargs = self._import_all(tail, [list(args), kwargs])
            outputs = layer.lower_call(tail, args, kwargs)
            self._refuse_states(layer, tail)
            return _as(outputs, "now")
        if "now" in whens:
            raise _refusal(
                layer,
                "it takes a sequence, and what is known of another one only at its end; an input that is known at the "
                "start can be given there",
            )
        if is_function:
            return self._lower_function(layer, args, kwargs)
        return self._lower_over_time(layer, layer._named(args, kwargs))

    def _lower_over_time(self, layer: Layer, given: dict[str, Nested]) -> Nested:
        """Write a call of a layer on a sequence."""
        first = layer.call_arguments[0]
        values = flatten(given[first])
        if not layer.takes_several and values[0].when != "sequence":
            raise _refusal(layer, "its input is no sequence, and another argument is one")
        why = layer.why_across_time(values if layer.takes_several else values[0])
        if why is not None:
            raise _refusal(layer, why)
        if getattr(layer, "stateful", False):
            if layer in self._stateful:
                raise _refusal(layer, "it keeps states and is called twice")
            self._stateful.add(layer)
        starts = given.pop("initial_state", None)
        given = self._import_all(self.builder, given)
        if starts is not None:
            if any(getattr(leaf, "when", None) != "start" for leaf in flatten(starts)):
                raise _refusal(
                    layer, "its initial state comes from an input that is not given at the start"
                )
            given["initial_state"] = starts
            self.needed.update({leaf.buffer: leaf for leaf in flatten(starts)})
        outputs = layer.lower_call(self.builder, [], given)
        for keeper, (before, after) in self.builder.states.items():
            self._carry(cast(RNN, keeper), before, after)
        self.builder.states.clear()
        return _as(outputs, "sequence")

    def _carry(self, layer: RNN, before: list[int], after: list[Value]) -> None:
        """Carry on the states of a stateful layer within another one, such as TimeDistributed."""
        starts = layer.streams_start_from()
        for name, old, new, start in zip(
            layer._cell.state_names, before, after, starts, strict=True
        ):
            state = self.builder.carry(
                f"{layer.name}/{name}", new.shape[1:], layer._cell.compute_dtype, start
            )
            state.before, state.after = Value(old, new.shape), new

    def _lower_model(
        self, model: "Model", args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> Nested:
        named = model._named(args, kwargs)
        named.pop("training", None)
        x = named.pop(model.call_arguments[0])
        if named:
            raise _refusal(model, f"its call has the arguments {', '.join(named)}")
        values = zip(model._signature.flat(x), model._inputs, strict=True)
        typed = [replace(value, dtype=as_dtype(layer.input_dtype)) for value, layer in values]
        self.builder.path.append(model.name)
        outputs = model._lower_graph(self.builder, typed, lower_call=self._lower_call)
        self.builder.path.pop()
        return outputs

    def _lower_function(
        self, layer: Layer, args: Sequence[Nested], kwargs: dict[str, Nested]
    ) -> Nested:
        """Write a call of a function, of which a trial tells how it treats time."""
        kinds = _tried_over_time(layer, args, kwargs)
        given = [list(args), kwargs]
        if kinds == {"sequence"}:
            args, kwargs = self._import_all(self.builder, given)
            return _as(layer.lower_call(self.builder, args, kwargs), "sequence")
        if kinds != {"now"}:
            raise _refusal(layer, "a timestep of what it returns takes other timesteps")

        def crossed(leaf: Any) -> Any:
            if getattr(leaf, "when", None) == "sequence":
                return self.builder.as_of_now(leaf, keep_axis=True)
            return leaf

        args, kwargs = self._import_all(self.builder.tail, map_structure(crossed, given))
        return _as(layer.lower_call(self.builder.tail, args, kwargs), "now")

    @staticmethod
    def _refuse_states(layer: Layer, builder: Builder) -> None:
        if builder.states:
            raise _refusal(layer, "it keeps states and its input is no sequence of the stream")


def _refusal(layer: Layer, why: str) -> NotStreamableError:
    return NotStreamableError(
        f"layer {layer.name!r} ({type(layer).__name__}) cannot run in a stream: {why}"
    )


def _stream_value(value: Value, when: str) -> StreamValue:
    return StreamValue(value.buffer, value.shape, value.mask, value.dtype, when)


def _as(outputs: Nested, when: str) -> Nested:
    """Values as StreamValues; those that say by themselves when they are keep that."""
    return map_structure(
        lambda value: (
            value
            if isinstance(value, StreamValue) and value.when in ("now", "between")
            else _stream_value(value, when)
        ),
        outputs,
    )


def _tried_over_time(layer: Layer, args: Sequence[Nested], kwargs: dict[str, Nested]) -> set[str]:
    """How the results of a call depend on time: "sequence", "now" (on the last timestep alone), "neither"; tried out.

    The call is run on random numbers for some timesteps, for each of them alone, and for those up to each.
    """
    rng = np.random.default_rng(0)
    given = [list(args), kwargs]
    leaves = [leaf for leaf in flatten(given) if isinstance(leaf, StreamValue)]
    arrays = []
    for leaf in leaves:
        steps = [_TRIED_STEPS] if leaf.when == "sequence" else []
        rest = leaf.shape[2:] if steps else leaf.shape[1:]
        shape = (2, *steps, *(size or 4 for size in rest))
        kind = "f" if leaf.dtype is None or is_floating(leaf.dtype) else leaf.dtype.kind
        numbers = rng.normal(size=shape) if kind == "f" else rng.integers(0, 2, shape)
        dtype = np.dtype(np.float32) if kind == "f" else leaf.dtype
        arrays.append(numbers.astype(dtype))

    def run(part: slice) -> list[np.ndarray]:
        cut = [
            array[:, part] if leaf.when == "sequence" else array
            for leaf, array in zip(leaves, arrays, strict=True)
        ]
        builder = Builder()
        values = [
            builder.value(
                (None, *array.shape[1:]),
                None if leaf.mask is None else builder.mask(),
                leaf.dtype,
            )
            for leaf, array in zip(leaves, cut, strict=True)
        ]
        rest = iter(values)
        args, kwargs = map_structure(
            lambda leaf: next(rest) if isinstance(leaf, StreamValue) else leaf, given
        )
        outputs = flatten(layer.lower_call(builder, args, kwargs))
        masks = [(value.mask, array) for value, array in zip(values, cut, strict=True)]
        plan = builder.plan(
            [*(value.buffer for value in values), *(m for m, _ in masks if m is not None)],
            [value.buffer for value in outputs],
        )
        ones = [np.ones(array.shape[:2], bool) for mask, array in masks if mask is not None]
        return plan.run([*cut, *ones], compiled=False)

    try:
        whole = run(slice(None))
        alone = [run(slice(t, t + 1)) for t in range(_TRIED_STEPS)]
        until = [run(slice(0, t + 1)) for t in range(_TRIED_STEPS)]
    except (TypeError, ValueError, IndexError):
        return {"neither"}
    kinds = set()
    for i, result in enumerate(whole):
        results = [one[i] for one in alone]
        if all(step.ndim > 1 and step.shape[1] == 1 for step in results) and _same(
            np.concatenate(results, axis=1), result
        ):
            kinds.add("sequence")
        elif all(_same(step, one[i]) for step, one in zip(results, until, strict=True)):
            kinds.add("now")
        else:
            kinds.add("neither")
    return kinds


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.allclose(a, b, 1e-4, 1e-5, equal_nan=True)


@dataclass(frozen=True)
class _Result:
    """Where an output of the model comes from."""

    place: int
    timed: bool
    """Whether it comes from the plan over time, with an axis for the timesteps, or from the tail."""
    dtype: np.dtype | None


class _Form:
    """The steps of a stream for one timestep, or for several.

    Attributes
    ----------
    plan : Plan
        From the streamed inputs (batch, steps, ...), states and constants to outputs, what crosses into the tail, and
        states.
    constants, tail_constants : list of int
        The values from the start that go into the plan and the tail, by their buffers at the start.
    """

    def __init__(self, writer: _Writer) -> None:
        builder, self.carried = writer.builder, writer.builder.carried
        self.structure = map_structure(lambda _: None, writer.outputs)
        self.constants, inputs = self._constants(writer, builder)
        crossings = [] if builder.one_step else builder.crossings
        outputs: list[StreamValue] = flatten(writer.outputs)
        self._crossings = [(there.shape, keep_axis) for _, there, keep_axis in crossings]
        over_time = [one.buffer for one in outputs if builder.one_step or one.when == "sequence"]
        over_time = list(dict.fromkeys(over_time))
        after = [state.after.buffer for state in self.carried if state.after is not None]
        kept = [*over_time, *(buffer for buffer, _, _ in crossings), *after]
        self.n_outputs, self.n_states = len(over_time), len(after)
        self.plan = builder.plan(
            [
                *(value.buffer for value in writer.x),
                *(state.before.buffer for state in self.carried),
                *inputs,
            ],
            kept,
        )
        made = {(target, step.dtype) for step in self.plan.steps for target in step.targets}
        self.tail: Plan | None = None
        self.tail_constants: list[int] = []
        behind: list[int] = []
        if not builder.one_step and any(one.when != "sequence" for one in outputs):
            tail = builder.tail
            self.tail_constants, tail_inputs = self._constants(writer, tail)
            behind = list(dict.fromkeys(one.buffer for one in outputs if one.when != "sequence"))
            self.tail = tail.plan(
                [*(there.buffer for _, there, _ in crossings), *tail_inputs], behind
            )
            made |= {(target, step.dtype) for step in self.tail.steps for target in step.targets}
        self.results = [
            _Result(
                (over_time if self.tail is None or one.when == "sequence" else behind).index(
                    one.buffer
                ),
                one.when == "sequence",
                None if (one.buffer, one.dtype) in made else one.dtype,
            )
            for one in outputs
        ]

    @staticmethod
    def _constants(writer: _Writer, builder: Builder) -> tuple[list[int], list[int]]:
        """The buffers of values from the start, there and in `builder`."""
        found = {key[1]: v.buffer for key, v in writer.imported.items() if key[0] == id(builder)}
        return list(found), list(found.values())

    def in_structure(self, outputs: Any) -> Nested:
        """Return outputs, or the one output, in the structure of the model's."""
        return unflatten(
            self.structure, outputs if isinstance(outputs, (tuple, list)) else [outputs]
        )

    def run(
        self,
        x: Sequence[np.ndarray],
        states: Sequence[np.ndarray],
        start: Mapping[int, np.ndarray],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the outputs, (batch, steps, ...) or of one step in the model's shape, and the new states."""
        batch, steps = x[0].shape[:2]
        made = self.plan.run([*x, *states, *(start[number] for number in self.constants)])
        over_time, new = made[: self.n_outputs], made[len(made) - self.n_states :]
        if self.tail is None:
            return [converted(over_time[one.place], one.dtype) for one in self.results], new
        crossed = [
            array.reshape(batch * steps, *([1] if keep_axis else []), *array.shape[2:])
            for array, (_, keep_axis) in zip(
                made[self.n_outputs : len(made) - self.n_states], self._crossings, strict=True
            )
        ]
        fixed = [np.repeat(start[number], steps, axis=0) for number in self.tail_constants]
        behind = [
            array.reshape(batch, steps, *array.shape[1:])
            for array in self.tail.run([*crossed, *fixed])
        ]
        outputs = [
            converted((over_time if one.timed else behind)[one.place], one.dtype)
            for one in self.results
        ]
        return outputs, new


class Steps:
    """What the streams of a model run; made once for each choice of inputs that are given at the start.

    Parameters
    ----------
    model : Model
    given : frozenset of str
        Names of the inputs given at the start.

    Raises
    ------
    NotStreamableError
        If a layer would need later timesteps.
    """

    def __init__(self, model: "Model", given: frozenset[str]) -> None:
        self.model, self.given = model, given
        self.inputs = [layer for layer in model._inputs if layer.name not in given]
        self.start_inputs = [layer for layer in model._inputs if layer.name in given]
        if not self.inputs:
            raise ValueError(
                f"model {model.name!r}: expected an input that is not given at the start"
            )
        writer = _Writer(model, given, one_step=True)
        self.step = _Form(writer)
        self.carried = self.step.carried
        self._needed = list(writer.needed)
        self._masks = writer.begin.masks
        self._begin = writer.begin.plan(writer.begin_inputs, self._needed)
        self.needed_shapes = {buffer: value.shape[1:] for buffer, value in writer.needed.items()}

    def is_mask(self, number: int) -> bool:
        """Return whether a value from the start, by its buffer there, is a mask."""
        return number in self._masks

    @cached_property
    def chunk(self) -> _Form | None:
        """The form for several timesteps, or None: then they go one by one."""
        try:
            return _Form(_Writer(self.model, self.given, one_step=False))
        except _OneByOne:
            return None

    def begin(self, start: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Return what the steps need of what is given at the start, by its buffers there."""
        if not self._needed:
            return {}
        found = dict(zip(self._needed, self._begin.run(start), strict=True))
        return {
            number: np.ascontiguousarray(array, bool if number in self._masks else array.dtype)
            for number, array in found.items()
        }

    def states(self, batch: int, begun: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """Return the states before the first step."""
        states = []
        for state in self.carried:
            if isinstance(state.start, StreamValue):
                made = begun[state.start.buffer]
                shape = (batch, *state.shape)
                if made.shape != shape:
                    raise ValueError(
                        f"state {state.name!r}: expected shape {shape} at the start; got {made.shape}"
                    )
            else:
                made = state.start(batch)
            states.append(np.array(made, state.dtype, order="C"))
        return states

    def compiled(
        self,
        states: Sequence[np.ndarray],
        constants: Sequence[np.ndarray],
        picked: bool = False,
    ) -> _core.Streams | None:
        """Return the core's object that steps these states, or None where there are steps in NumPy."""
        plan, form = self.step.plan, self.step
        shapes = [
            (1, *(size for size in layer.batch_shape[2:] if size is not None))
            for layer in self.inputs
        ]
        known = all(None not in layer.batch_shape[2:] for layer in self.inputs)
        whole = {source for step in plan.steps for source in step.indices}
        dtypes = {step.dtype for step in plan.steps}
        taken = all(
            buffer in whole or as_dtype(layer.input_dtype) in dtypes
            for buffer, layer in zip(plan.inputs, self.inputs, strict=False)
        )
        distinct = [one.place for one in form.results] == list(range(form.n_outputs))
        if plan.program is None or not (taken and distinct and known):
            return None
        if any(one.dtype is not None for one in form.results):
            return None
        timed = [one.timed for one in form.results]
        return _core.Streams(plan.program, shapes, timed, states, constants, picked)

    # -- what callers give ------------------------------------------------------------------------------------------

    def arrays(self, x: Nested, lead: int, what: str) -> list[np.ndarray]:
        """The streamed inputs of a call as arrays in their dtypes, with `lead` axes before a timestep's own."""
        names = [layer.name for layer in self.inputs]
        given = [x]
        if len(names) > 1 or isinstance(x, dict):
            if isinstance(x, dict) and set(x) == set(names):
                given = [x[name] for name in names]
            elif isinstance(x, (list, tuple)) and len(x) == len(names):
                given = list(x)
            else:
                raise ValueError(
                    f"{what}: expected inputs as a list or a dict of {', '.join(names)}; got {_described(x)}"
                )
        arrays = [
            self._array(one, layer, lead, what)
            for one, layer in zip(given, self.inputs, strict=True)
        ]
        if len({array.shape[:lead] for array in arrays}) > 1:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise ValueError(f"{what}: expected inputs of one batch size and length; got {shapes}")
        return arrays

    def _array(self, x: ArrayLike, layer: InputLayer, lead: int, what: str) -> np.ndarray:
        array = to_numeric(x, f"{what}: input {layer.name!r}")
        expected = ("batch", "steps")[:lead] + layer.batch_shape[2:]
        sizes = zip(array.shape[lead:], layer.batch_shape[2:], strict=False)
        if array.ndim != len(expected) or any(want not in (None, got) for got, want in sizes):
            written = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
            raise ValueError(
                f"{what}: input {layer.name!r}: expected shape ({written}); got {array.shape}"
            )
        if layer.input_dtype in HALVES:
            return rounded(array, layer.input_dtype)
        return np.asarray(array, layer.input_dtype, order="C")

    def start_arrays(self, start: Mapping[str, ArrayLike] | None) -> list[np.ndarray]:
        """What is given at the start as arrays in the inputs' dtypes."""
        return [fitted((start or {})[layer.name], layer, False) for layer in self.start_inputs]


def _described(x: object) -> str:
    if isinstance(x, dict):
        return f"a dict of {', '.join(map(str, x))}"
    return f"a list of {len(x)}" if isinstance(x, (list, tuple)) else type(x).__name__


def steps_of(model: "Model", given: Sequence[str]) -> Steps:
    """Return what the model's streams run, with these inputs given at the start; made once until weights change."""
    if not model.built:
        raise ValueError(
            f"model {model.name!r} is not built: give it an Input, call it, or call build"
        )
    names = {layer.name for layer in model._inputs}
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(
            f"model {model.name!r}: expected inputs at the start among {', '.join(sorted(names))}; got {unknown[0]!r}"
        )
    key: Any = ("stream", frozenset(given))
    made: Any = model._executables.get(key)
    if made is None:
        made = Steps(model, frozenset(given))
        model._executables[key] = made
    return cast(Steps, made)


class Stream:
    """A model that takes its sequence one timestep at a time; `Model.stream` makes it.

    It computes with the weights that the model had when the stream was made. One thread at a time can use it.

    Attributes
    ----------
    batch_size : int
        How many sequences run side by side.
    state : dict of str to ndarray
        Copies of the states after the last step, (batch, ...) each: "lstm/h" and "lstm/c" of the layer "lstm". It can
        be set to such a dict.
    """

    def __init__(
        self,
        model: "Model",
        batch_size: int | None = None,
        state: bytes | Mapping[str, ArrayLike] | None = None,
        start: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        self._name = f"stream of {model.name!r}"
        saved = None
        if isinstance(state, (bytes, bytearray, memoryview)):
            saved = unpack(bytes(state))
            state = saved.states
            if start is None and saved.start:
                start = saved.start
        check_named(state, f"{self._name}: the state", "bytes or a dict of arrays")
        check_named(start, f"{self._name}: the start", "a dict of arrays")
        self._steps = steps_of(model, list(start or {}))
        sizes = {}
        self._start = self._steps.start_arrays(start)
        if self._start:
            sizes["what is given at the start"] = len(self._start[0])
        if saved is not None:
            sizes["the snapshot"] = saved.batch_size
        elif state:
            first = next(iter(state.values()))
            sizes["the state"] = np.shape(first)[0] if np.ndim(first) else 0
        if batch_size is not None:
            sizes["batch_size"] = positive_integer(batch_size, "batch_size")
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{size} of {what}" for what, size in sizes.items())
            raise ValueError(f"{self._name}: expected one batch size; got {found}")
        self.batch_size = next(iter(sizes.values()), 1)
        self._begun = self._steps.begin(self._start)
        if state is not None:
            what = f"{self._name}: {'the snapshot' if saved is not None else 'the state'}"
            # Looked at before anything of the batch size that it claims is made.
            self._states = [
                np.array(one) for one in checked_states(self._steps, state, self.batch_size, what)
            ]
        else:
            self._states = self._steps.states(self.batch_size, self._begun)
        self._connect()
        self._pace = Pace(float(model.count_params()) * self.batch_size)

    def _connect(self) -> None:
        """Have the core step the states, where it can."""
        constants = [self._begun[number] for number in self._steps.step.constants]
        self._core = self._steps.compiled(self._states, constants)
        self._lock = threading.Lock() if self._core is None else self._core

    @property
    def state(self) -> dict[str, np.ndarray]:
        """dict of str to ndarray: copies of the states, (batch, ...) each."""
        names = [state.name for state in self._steps.carried]
        with self._alone():
            return {name: array.copy() for name, array in zip(names, self._states, strict=True)}

    @state.setter
    def state(self, state: Mapping[str, ArrayLike]) -> None:
        with self._alone():
            self._take(state, "the state")

    def _take(self, states: Mapping[str, ArrayLike], what: str) -> None:
        new = checked_states(self._steps, states, self.batch_size, f"{self._name}: {what}")
        uninterrupted(np.copyto, self._states, new)

    def _alone(self) -> "_Alone":
        return _Alone(self._lock)

    def step(self, x: Nested, out: np.ndarray | None = None) -> Nested:
        """Take the next timestep.

        Parameters
        ----------
        x : array-like, shape (features,) or (batch, features)
            Whatever one timestep of the model's input is; a list, or a dict by name, for several inputs. Without the
            batch only in a stream of batch size 1.
        out : ndarray, optional
            Where to put the one output: of its shape and dtype, C-contiguous, not overlapping with `x`.

        Returns
        -------
        ndarray, or the model's output structure of ndarray
            What the model gives at this timestep, or as of now where it returns no sequence: (out,) for an `x` without
            the batch, else (batch, out).

        Raises
        ------
        TypeError, ValueError
            If something does not fit; the states are then as they were.
        RuntimeError
            If another thread is using the stream.
        """
        if self._core is not None:
            y = self._core.step(x, out)
            if y is not None:
                return y if self._steps.step.structure is None else self._steps.step.in_structure(y)
        return self._step(x, out)

    def _step(self, x: Nested, out: np.ndarray | None) -> Nested:
        """`step` for what the core does not take as it comes."""
        first: Any = next(iter(x.values()), None) if isinstance(x, dict) else x
        if len(self._steps.inputs) > 1 and isinstance(x, (list, tuple)) and x:
            first = x[0]
        bare = np.ndim(first) == len(self._steps.inputs[0].batch_shape) - 2
        if bare and self.batch_size > 1:
            raise ValueError(
                f"{self._name}: expected {self.batch_size} rows; got a timestep of shape {np.shape(first)}"
            )
        if bare:
            arrays = [array[np.newaxis] for array in self._steps.arrays(x, 0, self._name)]
        else:
            arrays = self._steps.arrays(x, 1, self._name)
        if len(arrays[0]) != self.batch_size:
            raise ValueError(
                f"{self._name}: expected {self.batch_size} rows; got a timestep of shape {arrays[0].shape}"
            )
        if self._core is not None and out is None:
            made = self._core.step(tuple(arrays))
            if made is not None:
                outputs = list(made) if isinstance(made, tuple) else [made]
                return self._steps.step.in_structure(
                    [one[0] for one in outputs] if bare else outputs
                )
        with self._alone():
            outputs, states = step_in_numpy(self._steps.step, arrays, self._states, self._begun)
            outputs = [one[0] for one in outputs] if bare else outputs
            if out is not None:
                outputs = [put_into(out, outputs, self._name)]
            uninterrupted(np.copyto, self._states, states)
        return self._steps.step.in_structure(outputs)

    def feed(self, chunk: Nested) -> Nested:
        """Take several timesteps: the same as as many steps.

        Parameters
        ----------
        chunk : array-like, shape (batch, time, features)
            A list, or a dict by name, for several inputs.

        Returns
        -------
        ndarray, or the model's output structure of ndarray
            (batch, time, ...): an output for every timestep, also of a model that returns the last one only.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As for `step`.
        """
        arrays = self._steps.arrays(chunk, 2, self._name)
        batch, time = arrays[0].shape[:2]
        if batch != self.batch_size or not time:
            raise ValueError(
                f"{self._name}: expected {self.batch_size} rows of one timestep or more; got shape {arrays[0].shape}"
            )
        states, joined = self._states, Joined(time, axis=1)
        with self._alone():
            form = self._steps.chunk
            for part in self._pace.parts(time, time if form is not None else 1):
                inputs = [array[:, part] for array in arrays]
                if form is not None:
                    outputs, states = form.run(inputs, states, self._begun)
                else:
                    now = [array[:, 0] for array in inputs]
                    outputs, states = step_in_numpy(self._steps.step, now, states, self._begun)
                    outputs = [output[:, np.newaxis] for output in outputs]
                joined.put(part, outputs)
            uninterrupted(np.copyto, self._states, states)
        return self._steps.step.in_structure(joined.arrays)

    def reset(self) -> None:
        """Go back to before the first step: to zeros, or to what was given at the start."""
        with self._alone():
            fresh = self._steps.states(self.batch_size, self._begun)
            uninterrupted(np.copyto, self._states, fresh)

    def __reduce__(self) -> tuple[Any, ...]:
        model = self._steps.model
        made: Any = model._executables.get(("stream", self._steps.given))
        if made is not self._steps:
            raise TypeError(
                f"{self._name}: the model has been changed since the stream was made, so it cannot be pickled with it; "
                "`save` gives the stream's states alone"
            )
        return Stream, (model, self.batch_size, self.save())

    def __copy__(self) -> Self:
        """Return a stream that goes on from here on its own; the model is the same."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        with self._alone():
            copied._states = [state.copy() for state in self._states]
        copied._connect()
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def save(self) -> bytes:
        """Return a snapshot, which `Model.stream(state=...)` goes on from, in another process too."""
        names = [layer.name for layer in self._steps.start_inputs]
        start = dict(zip(names, self._start, strict=True))
        return pack(self.batch_size, self.state, start)


_LOCK = type(threading.Lock())


class _Alone:
    """Holds a lock, or raises at once if it is taken."""

    def __init__(self, lock: "threading.Lock | _core.Streams") -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        if not (lock.acquire(False) if isinstance(lock, _LOCK) else lock.acquire()):
            raise RuntimeError("the stream is in use by another thread")

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def put_into(out: np.ndarray, outputs: Sequence[np.ndarray], what: str) -> np.ndarray:
    """Write the one output to `out` and return that; ValueError if there are several or `out` does not fit."""
    (output, *others) = outputs
    fits = isinstance(out, np.ndarray) and not others and out.shape == output.shape
    if not fits or out.dtype != output.dtype or not out.flags.carray:
        described = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else repr(out)
        raise ValueError(
            f"{what}: expected `out` as a C-contiguous array {output.dtype} {output.shape}; got {described}"
        )
    out[...] = output
    return out


def step_in_numpy(
    form: _Form,
    arrays: Sequence[np.ndarray],
    states: Sequence[np.ndarray],
    begun: Mapping[int, np.ndarray],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the outputs, (batch, ...), and the states after a step with inputs (batch, ...)."""
    outputs, new = form.run([array[:, np.newaxis] for array in arrays], states, begun)
    squeezed = [
        output[:, 0] if one.timed else output
        for output, one in zip(outputs, form.results, strict=True)
    ]
    return squeezed, new


def check_named(given: object, what: str, expected: str) -> None:
    """Raise TypeError unless something is a mapping, or None."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{what}: expected {expected}; got {type(given).__name__}")


def checked_states(
    steps: Steps, states: Mapping[str, ArrayLike], batch: int, what: str
) -> list[np.ndarray]:
    """Return named states as arrays in the order in which they are carried; ValueError if they are not the model's."""
    check_named(states, what, "bytes or a dict of arrays")
    names = [state.name for state in steps.carried]
    if set(states) != set(names):
        raise ValueError(
            f"{what}: expected the states {', '.join(names) or 'none'}; got {', '.join(map(str, states)) or 'none'}"
        )
    arrays = []
    for state in steps.carried:
        array = to_numeric(states[state.name], f"{what}: {state.name!r}")
        shape = (batch, *state.shape)
        if array.shape != shape:
            raise ValueError(f"{what}: {state.name!r}: expected shape {shape}; got {array.shape}")
        arrays.append(np.ascontiguousarray(array, state.dtype))
    return arrays
