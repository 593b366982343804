"""Models: layers connected to a graph, compiled to a plan on first use."""

import contextlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from fastrnn._nested import flatten, map_structure, unflatten
from fastrnn._pace import Joined, Pace
from fastrnn._types import Config, Nested, Shape
from fastrnn.dtypes import as_dtype
from fastrnn.errors import UnsupportedLayerError
from fastrnn.graph import graph
from fastrnn.layers import LOADABLE, InputLayer
from fastrnn.layers.arguments import holds_at_most, to_numeric
from fastrnn.layers.base import Layer, deserialize, serialize
from fastrnn.layers.calls import PreparedCall, PreparedCalls, returning
from fastrnn.layers.core import positive_integer
from fastrnn.layers.lambda_layer import Lambda
from fastrnn.layers.operations import Operation
from fastrnn.layers.quantized import InputRounding, RoundsInputs
from fastrnn.model_inputs import ModelInputs, refusing_empty, with_masks_that_fit
from fastrnn.plan import Builder, Executable, Value
from fastrnn.saving.config import constructor_options
from fastrnn.saving.spec import LayerSpec, ModelSpec, NodeSpec, TensorRef
from fastrnn.symbolic import KerasTensor, holds_tensors, is_input, record

if TYPE_CHECKING:
    from fastrnn.pool import StreamPool
    from fastrnn.streaming import Stream

ROWS_BETWEEN_NUMPY_STEPS = 1024
"""Rows that `predict` passes at once through a plan with steps in NumPy, whose intermediate arrays take memory."""


LowerCall = Callable[[Layer, Builder, Sequence[Nested], dict[str, Nested]], Nested]
"""What writes a call of a layer, given with the arguments of `Layer.lower_call`."""


def _lower_call(
    layer: Layer, builder: Builder, args: Sequence[Nested], kwargs: dict[str, Nested]
) -> Nested:
    return layer.lower_call(builder, args, kwargs)


class Model(Layer):
    """The base of `Sequential` and `Functional`: inputs, outputs, prediction.

    `Model(inputs, outputs, name=None)` makes a `Functional`.

    Attributes
    ----------
    layers : list of Layer
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        functional = cls is Model and (len(args) > 1 or "outputs" in kwargs)
        return object.__new__(Functional if functional else cls)  # type: ignore[return-value]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "call" in vars(cls):
            raise NotImplementedError(
                f"{cls.__name__}: a model of your own with a `call` derives from fastrnn.Layer, which takes the same "
                "`call`; fastrnn.Sequential([it]) has `predict` and the other methods of a model"
            )

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._layers: list[Layer] = []
        self._known_inputs: ModelInputs | None = None
        self._known_stateful: bool | None = None
        self._pace: Pace | None = None
        self._most_numbers = 0.0

    calls_take_any_size = False
    """Whether inputs of a call may have other sizes than declared, where the layers take them, as in Keras."""

    # What a subclass gives: the inputs, the structures of inputs and outputs, and the graph.

    @property
    def _inputs(self) -> list[InputLayer]:
        """list of InputLayer, in the order of a flat list of inputs."""
        raise NotImplementedError

    @property
    def _input_structure(self) -> Nested:
        """The structure in which inputs come, holding anything."""
        raise NotImplementedError

    @property
    def _signature(self) -> ModelInputs:
        """What a call is given, and how it is checked."""
        if self._known_inputs is None:
            self._known_inputs = ModelInputs(self, self._inputs, self._input_structure)
        return self._known_inputs

    def _lower_graph(
        self,
        builder: Builder,
        inputs: list[Value],
        shapes: dict[Layer, Nested] | None = None,
        lower_call: LowerCall = _lower_call,
    ) -> Nested:
        """Write the layers' steps from a list of values; return the outputs' values in their structure.

        `shapes` takes the output shape of each layer's first call; `lower_call` writes a call.
        """
        raise NotImplementedError

    # -- description ------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """list of Layer."""
        return list(self._layers)

    def _children(self) -> list[tuple[str, Layer | list[Layer]]]:
        return [("layers", self._layers)]

    def _add_layer(self, layer: Layer) -> None:
        self._layers.append(layer)
        layer._users.append(self)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by its name or its place in `layers`.

        Raises
        ------
        ValueError
            If there is none, or not exactly one of both is given.
        """
        if (name is None) == (index is None):
            raise ValueError(f"expected a name or an index; got name={name!r}, index={index!r}")
        if index is not None:
            if not -len(self._layers) <= index < len(self._layers):
                raise ValueError(f"expected an index below {len(self._layers)}; got {index}")
            return self._layers[index]
        for layer in self._layers:
            if layer.name == name:
                return layer
        raise ValueError(
            f"no layer named {name!r}; there are {', '.join(layer.name for layer in self._layers)}"
        )

    @property
    def input_shape(self) -> Nested:
        """The input's shape with the batch, None for an unknown size; in the inputs' structure."""
        return unflatten(self._input_structure, [layer.batch_shape for layer in self._inputs])

    @property
    def output_shape(self) -> Nested:
        """The output's shape with the batch, None for an unknown size; in the outputs' structure."""
        builder = Builder()
        return map_structure(
            lambda value: value.shape, self._lower_graph(builder, self._input_values(builder))
        )

    def compute_output_shape(self, input_shape: Nested) -> Nested:
        shapes = input_shape if isinstance(input_shape, list) else [input_shape]
        builder = Builder()
        outputs = self._lower_graph(builder, [builder.value(shape) for shape in shapes])
        return map_structure(lambda value: value.shape, outputs)

    def summary(self, print_fn: Callable[[str], object] = print) -> None:
        """Print a table of the layers, their output shapes and numbers of parameters."""
        shapes = self._layer_output_shapes()
        rows = [
            (
                f"{layer.name} ({type(layer).__name__})",
                str(shapes.get(layer, "?")),
                f"{layer.count_params():,}" if layer.built else "?",
            )
            for layer in self._layers
        ]
        header = ("Layer (type)", "Output Shape", "Param #")
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(3)]

        def line(row: tuple[str, str, str]) -> str:
            return f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}"

        rule = "-" * (sum(widths) + 4)
        print_fn(
            "\n".join(
                [
                    f'Model: "{self.name}"',
                    line(header),
                    rule,
                    *map(line, rows),
                    rule,
                    f"Total params: {self.count_params():,}" if self.built else "Not built",
                ]
            )
        )

    def _layer_output_shapes(self) -> dict[Layer, Nested]:
        """dict of Layer to the output shape of its first call."""
        if not self.built:
            return {}
        shapes: dict[Layer, Nested] = {layer: layer.batch_shape for layer in self._inputs}
        builder = Builder()
        self._lower_graph(builder, self._input_values(builder), shapes)
        return shapes

    # -- compilation ------------------------------------------------------------------------------------------------

    def _input_values(
        self, builder: Builder, shapes: Sequence[Shape | None] | None = None
    ) -> list[Any]:
        """New values for the inputs, of the shapes that they are declared to have or of others; None for those without.

        An optional input that is not given has none.
        """
        declared = [layer.batch_shape for layer in self._inputs]
        fixed_batch = self.stateful
        return [
            None
            if shape is None
            else builder.value(
                (batch if fixed_batch else None, *shape[1:]), dtype=as_dtype(layer.input_dtype)
            )
            for layer, (batch, *_), shape in zip(
                self._inputs, declared, declared if shapes is None else shapes, strict=True
            )
        ]

    def lower(self, builder: Builder, x: Nested) -> Nested:
        values = zip(self._signature.flat(x), self._inputs, strict=True)
        return self._lower_graph(
            builder, [replace(value, dtype=as_dtype(layer.input_dtype)) for value, layer in values]
        )

    def _typed(self, outputs: Nested) -> Nested:
        return outputs  # the layers', whatever the model's own policy

    def __getstate__(self) -> dict[str, Any]:
        unknown = dict.fromkeys(["_known_inputs", "_known_stateful", "_pace"])
        return {**super().__getstate__(), **unknown, "_most_numbers": 0.0}

    def _forget_plans(self) -> None:
        self._known_inputs = self._known_stateful = self._pace = None
        self._most_numbers = 0.0
        super()._forget_plans()

    def _executable(
        self, masked: tuple[bool, ...], shapes: tuple[Shape | None, ...] | None = None
    ) -> tuple[Executable, Nested]:
        """Return what runs the model, and the structure of its outputs.

        `masked` says which inputs carry a mask, `shapes` are the inputs' where they are not the declared ones.
        """
        form, executables = (masked, shapes), self._executables
        made = executables.get(form)
        if made is None:
            builder = Builder(precision=self._precision)
            values = self._input_values(builder, shapes)
            masks = {i: builder.mask() for i, carries in enumerate(masked) if carries}
            inputs = [value and replace(value, mask=masks.get(i)) for i, value in enumerate(values)]
            outputs = self._lower_graph(builder, inputs)
            buffers = [value.buffer for value in values if value] + list(masks.values())
            executable = Executable(builder, buffers, flatten(outputs))
            made = executables[form] = executable, map_structure(lambda value: None, outputs)
            self._known_stateful = self.stateful
        return made

    # -- calls ------------------------------------------------------------------------------------------------------

    def _check_batch(self, arrays: list[np.ndarray | None]) -> None:
        stateful = self.stateful if self._known_stateful is None else self._known_stateful
        batch = self._signature.layers[0].batch_shape[0]
        if not stateful or batch is None:
            return
        first = next(array for array in arrays if array is not None)
        if len(first) != batch:
            raise ValueError(
                f"model {self.name!r} is stateful with a batch of {batch}; got an input of shape {first.shape}"
            )

    def __call__(self, inputs: Nested, mask: Nested = None, training: bool = False) -> Nested:
        """Compute the model.

        Parameters
        ----------
        inputs : array-like, or list or dict of array-like
            Each (batch, ...): in the structure of the Keras model's inputs, or a flat list, or a dict by input name.
            None stands for an input that is optional.
        mask : array-like of bool, shape (batch, time), or a list of them and None, optional
        training : bool
            An error if a layer has dropout.

        Returns
        -------
        ndarray, or the Keras model's output structure of ndarray

        Raises
        ------
        TypeError, ValueError
            If an input is not of numbers or does not fit; states are then as they were.
        """
        if mask is None and not training:
            shortest = self._prepared.shortest
            results = shortest.run(inputs)
            if results is None and isinstance(inputs, np.ndarray):
                results = shortest.of_one(inputs)
            if results is not None:
                return results
        if not training:
            results = self._computed_before(inputs, mask, self.calls_take_any_size)
            if results is not None:
                return results
        if holds_tensors(inputs, mask):
            return record(self, (inputs,), {"mask": mask, "training": training})
        self._refuse_training(training)
        return self._compute(inputs, mask, self.calls_take_any_size)

    def _computed_before(self, inputs: Nested, mask: Nested, any_size: bool) -> Nested:
        """What a call returns that looks like one before; None where it has to be checked, as one of another form."""
        seen = self._known_inputs and self._known_inputs.look_at(inputs, mask, any_size)
        return self._prepared.results(*seen) if seen else None

    def _compute(self, inputs: Nested, mask: Nested, any_size: bool) -> Nested:
        self._build_for_call(inputs)
        arrays = self._signature.checked(inputs, any_size)
        self._check_batch(arrays)
        return self._run_and_prepare(inputs, mask, arrays)

    def _run_and_prepare(
        self, inputs: Nested, mask: Nested, arrays: list[np.ndarray | None]
    ) -> Nested:
        prepared = self._prepared  # before: where weights change meanwhile, nobody will look there
        masks = self._signature.checked_masks(mask, arrays)
        results = self._run(arrays, masks)
        self._prepare_like(inputs, mask, arrays, masks, prepared)
        return results

    def _build_for_call(self, inputs: Nested) -> None:
        """Build a model whose input shape is known only now."""

    def _run(
        self, arrays: list[np.ndarray | None], masks: list[np.ndarray | None] | None = None
    ) -> Nested:
        masks = [None] * len(arrays) if masks is None else masks
        with self._naming_inputs(arrays):
            executable, structure = self._executable(
                _not_none(masks), self._signature.other_shapes(arrays)
            )
            results = executable([one for one in (*arrays, *masks) if one is not None])
        return unflatten(structure, results)

    def _prepare_like(
        self,
        inputs: Nested,
        mask: Nested,
        arrays: list[np.ndarray | None],
        masks: list[np.ndarray | None],
        prepared: PreparedCalls,
    ) -> None:
        """Keep what the next call needs that looks like this one, which has been computed."""
        signature = self._signature
        masked, given = _not_none(masks), _not_none(arrays)
        shapes = signature.other_shapes(arrays)
        form, declared = (masked, shapes), shapes is None
        executable, structure = self._executable(masked, shapes)
        seen = signature.look_at(inputs, mask, any_size=True)
        if executable.plan.program is None or seen is None or prepared.has(seen[0], form):
            return
        known = [shape for shape in shapes or signature.shapes if shape is not None]
        masks_known: list[Shape] = [(None, None)] * sum(masked)
        run = executable.run_directly([*known, *masks_known], signature.dtypes(given, masked))
        if run is None:
            return
        run, taken = returning(run, structure), signature.prepared(given, masked)
        if any(masked):
            run = with_masks_that_fit(run, given, masked)
        call = PreparedCall(form, run, taken, as_they_come=any(masked))
        (_, *look), leaves = seen
        checked = [one for one in (*arrays, *masks) if one is not None]
        # Any call may be of the declared sizes.
        for any_size in (True, False) if declared else (True,):
            if not prepared.keep((any_size, *look), call, leaves, checked):
                return
        if declared and all(given) and not any(masked):
            empty = len(known) == 1 and executable.takes_empty(known[0])
            as_given = refusing_empty(run) if empty else signature.taking_apart(run)
            prepared.shortest = PreparedCall(form, as_given, taken)

    @contextlib.contextmanager
    def _naming_inputs(self, arrays: list[np.ndarray | None]) -> Iterator[None]:
        """Let errors about inputs of other than the declared sizes say what was declared."""
        try:
            yield
        except ValueError as error:
            if self._signature.other_shapes(arrays) is None or any(
                array is None for array in arrays
            ):
                raise
            declared = ", ".join(str(layer.batch_shape) for layer in self._inputs)
            given = ", ".join(str(array.shape) for array in arrays if array is not None)
            raise ValueError(
                f"model {self.name!r}: expected inputs of shape {declared}, or of sizes that its layers take; "
                f"got {given}: {error}"
            ) from error

    def _run_on_nothing(self, arrays: list[np.ndarray | None]) -> Nested:
        """The empty outputs for empty inputs of a stateful model, whose batch size only full inputs can have."""
        executable, structure = self._executable(
            (False,) * len(arrays), self._signature.other_shapes(arrays)
        )
        batch = self._inputs[0].batch_shape[0]
        given = [array for array in arrays if array is not None]
        blanks = [np.zeros((batch, *array.shape[1:]), array.dtype) for array in given]
        results = executable(blanks, keep_states=False)
        return unflatten(structure, [result[:0] for result in results])

    def predict(self, x: Nested, batch_size: int | None = None, verbose: int | str = 0) -> Nested:
        """Compute the model for any number of rows.

        Parameters
        ----------
        x : array-like, or list or dict of array-like
            As for calling the model; of any sizes that its layers take, such as other lengths than the declared one.
        batch_size : int, optional
            Has no effect: the engine chooses how many rows it takes at a time, so that Ctrl-C is heard between. A
            stateful model takes its own batch size, and carries its states from one group of rows to the next.
        verbose : {0, 1, 2, "auto"}
            Print a line at the end unless 0.

        Returns
        -------
        ndarray, or the Keras model's output structure of ndarray

        Raises
        ------
        TypeError, ValueError
            As for calling the model; also if the rows are no multiple of a stateful model's batch size, or of that of
            a constant in the model.

        Notes
        -----
        After an error, or Ctrl-C, a stateful model has the states that it had before.
        """
        if batch_size is not None:
            positive_integer(batch_size, "batch_size")
        most = self._most_numbers
        is_short = x.size <= most if isinstance(x, np.ndarray) else holds_at_most(most, x)
        if is_short and not verbose:
            results = self._prepared.shortest.run(x)
            if results is None:
                results = self._computed_before(x, None, any_size=True)
            if results is not None:
                return results
        self._build_for_call(x)
        arrays = self._signature.checked(x, any_size=True)
        rows = next(len(array) for array in arrays if array is not None)
        stateful = self.stateful
        steps = 1 if rows else 0
        groups = self._groups(arrays, rows, stateful)
        if stateful and not rows:
            outputs = self._run_on_nothing(arrays)
        elif groups is None:
            outputs = self._run_and_prepare(x, None, arrays)
        else:
            outputs, steps = self._run_groups(arrays, rows, groups)
        if verbose:
            print(f"{rows} rows in {steps} steps")
        return outputs

    def _groups(
        self, arrays: list[np.ndarray | None], rows: int, stateful: bool
    ) -> Iterable[slice] | None:
        """Which rows `predict` takes at a time; None for all at once.

        It also notes how many numbers are few enough for all at once, whatever they are.
        """
        # Where the batch is fixed, what takes another is not prepared.
        self._most_numbers = math.inf
        batch = self._inputs[0].batch_shape[0]
        if stateful and batch is not None:
            if rows % batch:
                raise ValueError(
                    f"model {self.name!r} is stateful with a batch of {batch}: expected a multiple "
                    f"of it; got {rows} rows"
                )
            return None if rows <= batch else _in_groups(rows, batch)
        with self._naming_inputs(arrays):
            shapes = self._signature.other_shapes(arrays)
            executable, _ = self._executable((False,) * len(arrays), shapes)
        plan = executable.plan
        if plan.rows is not None:
            return None if rows <= plan.rows else _in_groups(rows, plan.rows)
        if self._pace is None:
            self._pace = Pace(float(self.count_params()))  # every weight counts for every place
        size = max(_places(array) for array in arrays if array is not None)
        most = rows if plan.program is not None else ROWS_BETWEEN_NUMPY_STEPS
        fitting = min(most, self._pace.fitting(size))
        self._most_numbers = self._pace.fitting(1) * self._signature.least_features
        return None if rows <= fitting else self._pace.parts(rows, most, size)

    def _run_groups(
        self, arrays: list[np.ndarray | None], rows: int, groups: Iterable[slice]
    ) -> tuple[Nested, int]:
        """Return the outputs for some rows after others, and how many times it took some."""
        joined, structure, steps = Joined(rows, axis=0), None, 0
        with self._all_or_nothing():
            for group in groups:
                structure = self._run([None if a is None else a[group] for a in arrays])
                joined.put(group, flatten(structure))
                steps += 1
        return unflatten(structure, joined.arrays), steps

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Let the stateful layers have the states that they had before if what is done inside ends early."""
        before = [(layer, layer.flat_states) for layer in self._stateful_layers()]
        try:
            yield
        except BaseException:
            for layer, states in before:
                layer.flat_states = states
            raise

    def _explain(self, inputs: Nested) -> list[dict[str, Any]]:
        """What runs in a call on such inputs, in its order, as `Plan.run` tells it. States stay as they are."""
        self._build_for_call(inputs)
        arrays = self._signature.checked(inputs, self.calls_take_any_size)
        given = [array for array in arrays if array is not None]
        executable, _ = self._executable((False,) * len(arrays))
        return executable.explain(given)

    def predict_on_batch(self, x: Nested) -> Nested:
        """Compute the model for one batch, of any sizes that `predict` takes."""
        results = self._prepared.shortest.run(x)
        if results is None:
            results = self._computed_before(x, None, any_size=True)
        return self._compute(x, None, any_size=True) if results is None else results

    def compile(self, *args: object, **kwargs: object) -> None:
        """Do nothing, for code written for Keras: loss, optimizer and metrics have no part in inference."""

    # -- streams ----------------------------------------------------------------------------------------------------

    def stream(
        self,
        batch_size: int | None = None,
        state: "bytes | Mapping[str, ArrayLike] | None" = None,
        start: Mapping[str, ArrayLike] | None = None,
    ) -> "Stream":
        """Return a stream: the model, one timestep at a time.

        Parameters
        ----------
        batch_size : int, optional
            How many sequences run side by side; by default what `state` and `start` have, or 1.
        state : bytes or dict of str to array-like, optional
            Where to go on from: what `Stream.save` or the attribute `Stream.state` gave.
        start : dict of str to array-like, optional
            Inputs, by name, that are given once and not step by step: the states of an encoder, or a whole sequence
            that an encoder in the model reads.

        Returns
        -------
        fastrnn.streaming.Stream

        Raises
        ------
        NotStreamableError
            If a layer would need later timesteps: it is an UnsupportedLayerError and a ValueError.
        ValueError
            If something does not fit the model, or the snapshot is damaged.
        """
        from fastrnn.streaming import Stream

        return Stream(self, batch_size, state, start)

    def stream_pool(self, capacity: int, start: Sequence[str] = ()) -> "StreamPool":
        """Return a pool of streams, of which any can be stepped together.

        Parameters
        ----------
        capacity : int
            How many streams can be open at once.
        start : sequence of str, optional
            Names of the inputs that are given when a stream is opened, and not step by step.

        Returns
        -------
        fastrnn.pool.StreamPool

        Raises
        ------
        NotStreamableError
            If a layer would need later timesteps.
        ValueError
            If the capacity is not positive, or there is no such input.
        """
        from fastrnn.pool import StreamPool

        return StreamPool(self, capacity, start)

    # -- states -----------------------------------------------------------------------------------------------------

    @property
    def stateful(self) -> bool:
        """bool: whether a layer is."""
        return any(True for _ in self._stateful_layers())

    @property
    def states(self) -> list[np.ndarray]:
        """list of ndarray: the stateful layers' states, layer after layer; none before the model is built."""
        return [state for layer in self._stateful_layers() for state in layer.states or ()]

    def reset_states(self, states: Nested = None) -> None:
        """Set the stateful layers' states.

        Parameters
        ----------
        states : list of array-like, optional
            As `states` gives them, flat or nested; zeros by default.

        Raises
        ------
        ValueError
            If their number or a shape does not fit; all states are then as they were.
        """
        stateful = list(self._stateful_layers())
        if states is None:
            for layer in stateful:
                layer.reset_states()
            return
        given = flatten(states)
        expected = sum(layer.n_states for layer in stateful)
        if len(given) != expected:
            raise ValueError(f"model {self.name!r}: expected {expected} states; got {len(given)}")
        rest = iter(given)
        shares = [[next(rest) for _ in range(layer.n_states)] for layer in stateful]
        for layer, share in zip(stateful, shares, strict=True):
            layer._check_states(
                share, None if layer.flat_states is None else len(layer.flat_states[0])
            )
        for layer, share in zip(stateful, shares, strict=True):
            layer.reset_states(share)

    def reset_state(self) -> None:
        """Set the stateful layers' states to zeros."""
        self.reset_states()


class Sequential(Model):
    """Layers one after the other.

    Parameters
    ----------
    layers : list of Layer, optional
        The first may be an `Input`, or have `input_shape`; otherwise the model is built when it is called first.
    name : str, optional
    """

    module = "keras"
    calls_take_any_size = True

    def __init__(
        self,
        layers: Iterable[Layer | KerasTensor] | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self._input: InputLayer | None = None
        taken: set[str] = set()
        for layer in layers or []:
            self._append(layer, taken)
        if self._input is not None and self._layers:
            self.build()

    @property
    def _inputs(self) -> list[InputLayer]:
        if self._input is None:
            raise ValueError(
                f"model {self.name!r} is not built: give it an Input, call it, or call build"
            )
        return [self._input]

    @property
    def _input_structure(self) -> Nested:
        return None

    def add(self, layer: Layer | KerasTensor) -> None:
        """Append a layer.

        Raises
        ------
        TypeError
            If it is not a layer.
        ValueError
            If its name is taken, or it is an input that does not come first, or its input does not fit.
        """
        before, n_layers = self._input, len(self._layers)
        self._append(layer, {other.name for other in self._layers})
        if self._input is not None and len(self._layers) > n_layers:
            try:
                self.build()
            except Exception:
                self.pop()
                self._input = before
                self.built = self._input is not None and bool(self._layers)
                raise

    def _append(self, layer: Layer | KerasTensor, taken: set[str]) -> None:
        """`add` without building: one model of many layers is built once. `taken` are the names of its layers."""
        if isinstance(layer, KerasTensor) and is_input(layer):
            layer = layer.call.layer
        if not isinstance(layer, Layer):
            raise TypeError(f"expected a layer; got {layer!r}")
        if isinstance(layer, InputLayer):
            if self._layers or self._input is not None:
                raise ValueError(f"model {self.name!r}: an input must be the first layer")
            self._input = layer
            return
        if layer.name in taken:
            raise ValueError(f"model {self.name!r} has a layer named {layer.name!r} already")
        taken.add(layer.name)
        if not self._layers and self._input is None and layer.declared_input_shape is not None:
            self._input = InputLayer(batch_shape=layer.declared_input_shape)
        if not self._layers and self._input is None and isinstance(layer, Model) and layer.built:
            self._input = InputLayer(batch_shape=layer._inputs[0].batch_shape)
        self._add_layer(layer)
        self._forget_plans()
        self.built = False

    def pop(self) -> Layer:
        """Remove and return the last layer."""
        if not self._layers:
            raise ValueError(f"model {self.name!r} has no layer to remove")
        layer = self._layers.pop()
        layer._users.remove(self)
        self._forget_plans()
        return layer

    def build(self, input_shape: Shape | None = None) -> None:
        """Create the layers' weights.

        Parameters
        ----------
        input_shape : tuple of int or None, optional
            With the batch; the model's own input's by default.
        """
        before = self._input
        if self._input is None:
            if input_shape is None:
                raise ValueError(f"model {self.name!r}: expected an input shape to build it for")
            self._input = InputLayer(batch_shape=input_shape)
            self._known_inputs = None
        unbuilt = [layer for layer in self._layers if not layer.built]
        builder = Builder()
        try:
            self._lower_graph(builder, [builder.value(self._input.batch_shape)])
        except Exception:
            self._input = before
            for layer in unbuilt:
                layer._unbuild()
            raise
        self.built = True

    def _build_for_call(self, inputs: Nested) -> None:
        if not self.built and self._input is None:
            if isinstance(inputs, (list, tuple)) and len(inputs) == 1:
                (inputs,) = inputs if isinstance(inputs[0], np.ndarray) else [inputs]
            batch, *sizes = to_numeric(inputs, f"model {self.name!r}").shape or (None,)
            unknown = [None] * (len(sizes) - 1)
            self.build((batch if self.stateful else None, *unknown, *sizes[-1:]))

    def _lower_graph(
        self,
        builder: Builder,
        inputs: list[Value],
        shapes: dict[Layer, Nested] | None = None,
        lower_call: LowerCall = _lower_call,
    ) -> Nested:
        value: Nested
        (value,) = inputs
        for layer in self._layers:
            if not isinstance(value, Value):
                raise ValueError(
                    f"layer {layer.name!r} of {self.name!r}: expected one input; got {len(flatten(value))} outputs"
                )
            value = lower_call(layer, builder, [value], {})
            if shapes is not None:
                shapes[layer] = map_structure(lambda output: output.shape, value)
        return value

    def get_config(self) -> Config:
        """Return the model's description as Keras 3 writes it, a dict."""
        layers = ([self._input] if self._input is not None else []) + self._layers
        config = {**super().get_config(), "layers": [serialize(layer) for layer in layers]}
        return (
            {**config, "build_input_shape": self._input.batch_shape}
            if self._input is not None
            else config
        )

    @classmethod
    def from_config(cls, config: Config, custom_objects: Mapping[str, Any] | None = None) -> Self:
        layers = [deserialize(layer, custom_objects) for layer in config["layers"]]
        return cls(layers, name=config.get("name"))


class Functional(Model):
    """Layers connected to a graph.

    Parameters
    ----------
    inputs, outputs : KerasTensor in any nesting of lists, tuples and dicts
        From `fastrnn.Input`, and from calls of layers that begin with those.
    name : str, optional

    Raises
    ------
    TypeError
        If something in them is no symbolic tensor.
    ValueError
        If the outputs depend on other inputs, or two layers have one name.
    """

    module = "keras.src.models.functional"
    takes_several = True

    def __init__(self, inputs: Nested, outputs: Nested, name: str | None = None, **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self._connect(*graph(inputs, outputs))

    @classmethod
    def of_graph(
        cls,
        layers: Sequence[Layer],
        nodes: Sequence[NodeSpec],
        inputs: Nested,
        outputs: Nested,
        name: str | None = None,
    ) -> Self:
        """Return the model of a graph as files hold it.

        Parameters
        ----------
        layers : list of Layer
        nodes : sequence of NodeSpec
            The calls of the layers, in any order.
        inputs, outputs : TensorRef in any nesting of lists, tuples and dicts
        name : str, optional
        """
        model = cls.__new__(cls)
        Model.__init__(model, name=name)
        model._connect(layers, nodes, inputs, outputs)
        return model

    def _connect(
        self, layers: Sequence[Layer], nodes: Sequence[NodeSpec], inputs: Nested, outputs: Nested
    ) -> None:
        for layer in layers:
            self._add_layer(layer)
        self._input_refs, self._outputs = (
            _without_list_of_one(inputs),
            _without_list_of_one(outputs),
        )
        self._by_name = {layer.name: layer for layer in layers}
        self._input_layers = {
            layer.name: layer for layer in layers if isinstance(layer, InputLayer)
        }
        self._calls = self._in_order(nodes)
        self.build()

    @property
    def layers(self) -> list[Layer]:
        """list of Layer."""
        return [layer for layer in self._layers if not isinstance(layer, Operation)]

    def _in_order(self, nodes: Sequence[NodeSpec]) -> list[tuple[str, int, NodeSpec]]:
        """The calls as (name, index, node), each after those whose outputs it takes, in the order of Keras.

        That is by how many calls there are at most from one to an output, the farthest first; calls of one layer count
        as the farthest of them that was met. The order matters where a layer takes masks from tensors.
        """
        counts: dict[str, int] = {}
        calls: dict[tuple[str, int], NodeSpec] = {}
        for node in nodes:
            counts[node.layer] = counts.get(node.layer, -1) + 1
            calls[node.layer, counts[node.layer]] = node
        needs = {
            call: [(ref.layer, ref.node) for ref in _refs_in([node.args, node.kwargs])]
            for call, node in calls.items()
        }
        needed = [(ref.layer, ref.node) for ref in _refs_in(self._outputs)]
        met = self._walk(needed, needs)
        depths: dict[tuple[str, int], int] = {}
        layer_depths: dict[str, int] = {}
        for call in reversed(met):
            depth = max(depths.setdefault(call, 0), layer_depths.get(call[0], 0))
            layer_depths[call[0]] = depths[call] = depth
            for parent in needs[call]:
                depths[parent] = max(depth + 1, depths.get(parent, 0))
        ordered = sorted((call for call in depths if call in calls), key=lambda call: -depths[call])
        # What no output needs is run after the rest, so that it changes nothing of it.
        rest = [call for call in self._walk(list(calls), needs) if call not in depths]
        return [(*call, calls[call]) for call in ordered + rest]

    def _walk(
        self, starts: list[tuple[str, int]], needs: dict[tuple[str, int], list[tuple[str, int]]]
    ) -> list[tuple[str, int]]:
        """The calls that `starts` need, each after those that it needs, depth first."""
        done = dict.fromkeys((ref.layer, ref.node) for ref in flatten(self._input_refs))
        n_inputs = len(done)
        path: list[tuple[tuple[str, int], Iterator[tuple[str, int]]]] = []
        on_path: set[tuple[str, int]] = set()

        def enter(call: tuple[str, int]) -> None:
            if call in on_path:
                names = ", ".join(name for (name, _), _ in path)
                raise ValueError(f"model {self.name!r}: the calls of {names} have no start")
            if call not in done:
                on_path.add(call)
                path.append((call, iter(needs.get(call, [call]))))

        for start in starts:
            enter(start)
            while path:
                call, rest = path[-1]
                needed = next(rest, None)
                if needed is not None:
                    enter(needed)
                else:
                    done[call] = None
                    on_path.remove(call)
                    path.pop()
        return list(done)[n_inputs:]

    @property
    def _inputs(self) -> list[InputLayer]:
        return [self._input_layers[ref.layer] for ref in flatten(self._input_refs)]

    @property
    def _input_structure(self) -> Nested:
        return self._input_refs

    def build(self, input_shape: Shape | None = None) -> None:
        """Create the layers' weights."""
        builder = Builder()
        self._lower_graph(builder, [builder.value(layer.batch_shape) for layer in self._inputs])
        self.built = True

    def _lower_graph(
        self,
        builder: Builder,
        inputs: list[Value],
        shapes: dict[Layer, Nested] | None = None,
        lower_call: LowerCall = _lower_call,
    ) -> Nested:
        values = dict(zip(flatten(self._input_refs), inputs, strict=True))

        def value_of(leaf: Any) -> Any:
            if not isinstance(leaf, TensorRef):
                return leaf
            if leaf not in values:
                raise ValueError(
                    f"model {self.name!r}: call {leaf.node} of {leaf.layer!r} has no output {leaf.tensor}"
                )
            value = values[leaf]
            if value is not None and value.buffer in builder.masks_taken:
                return replace(value, mask=None)
            return value

        missing = {ref for ref, value in values.items() if value is None}
        for name, index, node in self._calls:
            layer = self._by_name[name]
            if missing:
                _refuse_missing(layer, node, missing)
            args, kwargs = map_structure(value_of, node.args), map_structure(value_of, node.kwargs)
            outputs = lower_call(layer, builder, args, kwargs)
            for number, output in enumerate(flatten(outputs)):
                values[TensorRef(name, index, number)] = output
            if shapes is not None:
                shapes.setdefault(layer, map_structure(lambda output: output.shape, outputs))
        return map_structure(value_of, self._outputs)


def _in_groups(rows: int, group: int) -> Iterator[slice]:
    return (slice(start, min(start + group, rows)) for start in range(0, rows, group))


def _places(array: np.ndarray) -> int:
    """How many timesteps or pixels a row of an input has."""
    return math.prod(array.shape[1:] if array.dtype.kind in "iub" else array.shape[1:-1])


def _refuse_missing(layer: Layer, node: NodeSpec, missing: Collection[TensorRef]) -> None:
    """Raise ValueError if a call needs one of the `missing` inputs: what a layer can do without is an argument."""
    _, *others = [*node.args, *node.kwargs.values()]
    spared = [] if isinstance(layer, Operation) else others
    refs = _refs_in([node.args, node.kwargs])
    needed = [ref for ref in refs if ref in missing and ref not in spared]
    if needed:
        names = ", ".join(repr(ref.layer) for ref in needed)
        raise ValueError(f"layer {layer.name!r}: expected a tensor for the input {names}; got None")


def _refs_in(structure: Nested) -> list[TensorRef]:
    return [leaf for leaf in flatten(structure) if isinstance(leaf, TensorRef)]


def _without_list_of_one(structure: Nested) -> Nested:
    """`structure`, or what it holds if it is a list or tuple of one: Keras gives that for it."""
    is_list_of_one = isinstance(structure, (list, tuple)) and len(structure) == 1
    return structure[0] if is_list_of_one else structure


def _not_none(things: Sequence[object]) -> tuple[bool, ...]:
    return tuple([one is not None for one in things])


def layer_from_spec(spec: LayerSpec) -> Layer:
    """Return the layer that a file describes, not built.

    Raises
    ------
    UnsupportedLayerError
        If its class is not supported.
    """
    if spec.custom is not None:
        custom = _custom_from_spec(spec)
        if isinstance(custom, Layer):
            return custom
        options = {key: spec.config[key] for key in ("dtype", "arguments") if key in spec.config}
        if isinstance(spec.custom, type):
            options.pop("arguments", None)
            custom = getattr(custom, "call", custom)
        return Lambda(custom, **options, name=spec.name)
    if spec.class_name not in LOADABLE:
        raise UnsupportedLayerError(
            f"layer {spec.name!r} of class {spec.class_name} is not supported"
        )
    layer = LOADABLE[spec.class_name].from_config(_config_of(spec))
    how = spec.quantization
    if how is not None and (how.mode == "float8" or how.input_range is not None):
        assert isinstance(layer, RoundsInputs)
        layer.input_rounding = InputRounding(how.input_range, how.epsilon)
    return layer


def _config_of(spec: LayerSpec) -> Config:
    return {
        key: _built_from(value, cell=key in ("cell", "cells")) for key, value in spec.config.items()
    }


def _custom_from_spec(spec: LayerSpec) -> Any:
    """The caller's function, or an instance of the caller's class."""
    if not isinstance(spec.custom, type):
        return spec.custom
    config = _config_of(spec)
    if hasattr(spec.custom, "from_config"):
        return spec.custom.from_config(config)
    taken = constructor_options(spec.custom)
    return spec.custom(**{key: value for key, value in config.items() if key in taken})


def _built_from(value: Any, cell: bool = False) -> Any:
    if isinstance(value, ModelSpec):
        return model_from_spec(value)
    if isinstance(value, list):
        return [_built_from(part, cell) for part in value]
    if not isinstance(value, LayerSpec):
        return value
    return _custom_from_spec(value) if cell and value.custom is not None else layer_from_spec(value)


def model_from_spec(spec: ModelSpec) -> Model:
    """Return the model that a file describes, built, with initial weights.

    Parameters
    ----------
    spec : fastrnn.saving.spec.ModelSpec

    Raises
    ------
    UnsupportedLayerError
        If it has a layer that is not supported.
    ValueError
        If its layers do not fit together.
    """
    layers = [_built_from(layer) for layer in spec.layers]
    if spec.kind == "functional":
        return Functional.of_graph(layers, spec.nodes, spec.inputs, spec.outputs, name=spec.name)
    shape = spec.batch_input_shape
    if shape is None and spec.layers and isinstance(spec.layers[0], LayerSpec):
        shape = spec.layers[0].build_shape or None
    first = (
        []
        if shape is None
        else [InputLayer(batch_shape=shape, name=spec.input_name, dtype=spec.input_dtype)]
    )
    return Sequential([*first, *layers], name=spec.name)
