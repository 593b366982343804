"""Keras's wrappers: Bidirectional and TimeDistributed."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from fastrnn import plan
from fastrnn._nested import flatten
from fastrnn._types import Config, Nested, Shape
from fastrnn.errors import UnsupportedLayerError
from fastrnn.layers.arguments import to_numeric
from fastrnn.layers.base import Layer, deserialize
from fastrnn.layers.core import Activation, Dense, Dropout
from fastrnn.layers.rnn import RNN, RecurrentLayer, StatesLike, last_step_first

MERGE_MODES = ("sum", "mul", "concat", "ave", None)


def _with_layers(config: Config, custom_objects: Mapping[str, Any] | None, *keys: str) -> Config:
    """Return `config` with the layers that it describes under `keys`."""
    made = {
        key: deserialize(config[key], custom_objects)
        for key in keys
        if isinstance(config.get(key), dict)
    }
    return {**config, **made}


class Bidirectional(RecurrentLayer):
    """A recurrent layer over a sequence in both directions.

    Parameters
    ----------
    layer : RNN
        Goes forward: a new layer is made from its config.
    merge_mode : {"sum", "mul", "concat", "ave", None}
        How the two outputs become one; None returns both.
    weights : list of ndarray, optional
        Not supported; use `set_weights`.
    backward_layer : RNN, optional
        Goes backward; by default made from the config of `layer`.
    keeps_states : bool
        Whether a stateful layer has an effect; False for files of versions in which it had none, and not in the config.
    **kwargs
        `RecurrentLayer`'s arguments.

    Notes
    -----
    Weights: the forward layer's, then the backward layer's. As in Keras, masked steps give zeros where sequences are
    returned.
    """

    arguments = ("merge_mode", "layer", "backward_layer")
    across_time = "one of its directions starts at the last timestep"

    def __init__(
        self,
        layer: RNN,
        merge_mode: Literal["sum", "mul", "concat", "ave"] | None = "concat",
        weights: None = None,
        backward_layer: RNN | None = None,
        *,
        keeps_states: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for given in (layer, backward_layer):
            if given is not None and not isinstance(given, RNN):
                raise TypeError(f"layer {self.name!r}: expected a recurrent layer; got {given!r}")
        if merge_mode not in MERGE_MODES:
            raise ValueError(
                f"layer {self.name!r}: expected a merge_mode of {MERGE_MODES}; got {merge_mode!r}"
            )
        if weights is not None:
            raise UnsupportedLayerError(f"layer {self.name!r}: give weights by set_weights")
        self.merge_mode = merge_mode
        self.forward_layer = _renamed(layer, "forward_")
        self.backward_layer = backward_layer or _renamed(layer, "backward_", go_backwards=True)
        for option in ("stateful", "return_sequences", "return_state"):
            ours, theirs = getattr(self.forward_layer, option), getattr(self.backward_layer, option)
            if ours != theirs:
                raise ValueError(
                    f"layer {self.name!r}: expected the same {option} in both directions; got {ours} and {theirs}"
                )
        if self.forward_layer.go_backwards == self.backward_layer.go_backwards:
            raise ValueError(f"layer {self.name!r}: expected one layer of the two to go backwards")
        self.stateful = layer.stateful and keeps_states
        self.return_sequences = layer.return_sequences
        self.return_state = layer.return_state
        for direction in self._directions:
            direction.zero_output_for_mask = self.zeroes_masked_steps and self.return_sequences
            direction.stateful = self.stateful
            direction._users.append(self)

    @property
    def layer(self) -> RNN:
        """RNN: the forward layer."""
        return self.forward_layer

    @property
    def _directions(self) -> tuple[RNN, RNN]:
        return self.forward_layer, self.backward_layer

    @property
    def _n_outputs(self) -> int:
        return 2 if self.merge_mode is None else 1

    @property
    def states(self) -> list[Any] | None:
        """list or None: a stateful layer's states, the forward layer's entries and then the backward layer's."""
        forward, backward = self.forward_layer.states, self.backward_layer.states
        return None if forward is None or backward is None else forward + backward

    def _nested(self, results: Sequence[np.ndarray]) -> tuple[Any, ...]:
        outputs, states = results[: self._n_outputs], results[self._n_outputs :]
        if not states:
            return tuple(outputs)
        forward, backward = self._directions
        return (
            *outputs,
            *forward._entries(states[: forward.n_states]),
            *backward._entries(states[forward.n_states :]),
        )

    def _children(self) -> list[tuple[str, Layer | list[Layer]]]:
        return [("forward_layer", self.forward_layer), ("backward_layer", self.backward_layer)]

    @classmethod
    def from_config(cls, config: Config, custom_objects: Mapping[str, Any] | None = None) -> Self:
        return cls(**_with_layers(config, custom_objects, "layer", "backward_layer"))

    def build(self, input_shape: Shape) -> None:
        for direction in self._directions:
            if not direction.built:
                direction.build(input_shape)
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Nested:
        shapes = [direction.compute_output_shape(input_shape) for direction in self._directions]
        outputs = [shape[0] if self.return_state else shape for shape in shapes]
        states = [state for shape in shapes for state in shape[1:]] if self.return_state else []
        if self.merge_mode is not None:
            width = (
                outputs[0][-1] + outputs[1][-1] if self.merge_mode == "concat" else outputs[0][-1]
            )
            outputs = [(*outputs[0][:-1], width)]
        return outputs[0] if len(outputs) == 1 and not states else (*outputs, *states)

    def _check_input(self, shape: Shape) -> None:
        for direction in self._directions:
            direction._check_input(shape)

    def _shape_of_inputs(self, ndim: int) -> Shape:
        return self.forward_layer._shape_of_inputs(ndim)

    def _halves(self, states: Any) -> tuple[list[Any], list[Any]]:
        given = list(states) if isinstance(states, (list, tuple)) else [states]
        if len(given) % 2:
            raise ValueError(
                f"layer {self.name!r}: expected an even number of states; got {len(given)}"
            )
        return given[: len(given) // 2], given[len(given) // 2 :]

    def _check_states(self, states: StatesLike, batch: int | None) -> list[np.ndarray]:
        checked = []
        for direction, half in zip(self._directions, self._halves(states), strict=True):
            checked += direction._check_states(half, batch)
        return checked

    def reset_states(self, states: StatesLike | None = None) -> None:
        """Set a stateful layer's states.

        Parameters
        ----------
        states : list of array-like, optional
            The forward layer's, then the backward layer's; zeros by default.

        Raises
        ------
        ValueError
            If the layer is not stateful, or a shape does not fit; the states are then as they were.
        """
        halves = (None, None) if states is None else self._halves(states)
        current = self.forward_layer.flat_states
        if states is not None and self.stateful:
            self._check_states(states, None if current is None else len(current[0]))
        for direction, half in zip(self._directions, halves, strict=True):
            direction.reset_states(half)

    def lower(
        self, builder: plan.Builder, x: plan.Value, initial_state: Nested = None
    ) -> plan.Value | list[plan.Value]:
        halves: tuple[Any, Any] = (None, None)
        if initial_state is not None:
            flat, n_forward = flatten(initial_state), self.forward_layer.n_states
            halves = flat[:n_forward], flat[n_forward:]
        outputs, states = [], []
        for direction, half in zip(self._directions, halves, strict=True):
            lowered = direction.lower(builder, x, half)
            output, *final = lowered if isinstance(lowered, list) else [lowered]
            outputs.append(output)
            states += final
        forward, backward = outputs
        if self.merge_mode is not None:
            shape = self.compute_output_shape(x.shape)
            y = builder.value(shape[0] if states else shape, forward.mask)
            buffers = (forward.buffer, backward.buffer)
            builder.add(
                plan.Merge(
                    buffers, (y.buffer,), self.compute_dtype, self.merge_mode, self.return_sequences
                )
            )
            return [y, *states] if states else y
        if self.return_sequences:
            flipped = builder.value(backward.shape, backward.mask)
            builder.add(
                plan.Apply(
                    (backward.buffer,), (flipped.buffer,), self.compute_dtype, last_step_first
                )
            )
            backward = flipped
        return [forward, backward, *states]

    def _typed(self, outputs: Nested) -> Nested:
        if not self.return_state:
            return super()._typed(outputs)
        forward, backward = self._directions
        states = outputs[self._n_outputs :]
        return [
            *super()._typed(outputs[: self._n_outputs]),
            *forward._typed(states[: forward.n_states]),
            *backward._typed(states[forward.n_states :]),
        ]


def _renamed(layer: RNN, prefix: str, **changes: Any) -> RNN:
    """A new layer like `layer`, its name led by `prefix`."""
    changes["name"] = prefix + layer.name.removeprefix(prefix)
    changes |= {meaning: getattr(layer, meaning) for meaning in layer.meanings}
    if type(layer) is not RNN:
        return type(layer).from_config({**layer.get_config(), **changes})
    # A user's cell need not have a config. What holds it is not copied along.
    cell = copy.deepcopy(layer.cell, {id(getattr(layer.cell, "_users", None)): []})
    options = {option: getattr(layer, option) for option in RNN.options}
    return RNN(
        cell, **{**options, "dtype": layer.dtype_policy, "trainable": layer.trainable, **changes}
    )


class TimeDistributed(Layer):
    """A layer, or a model, applied to every timestep.

    Parameters
    ----------
    layer : Layer
    masks_steps : bool
        Whether the layer is given masks; False for files of versions in which it was not, and not in the config.
    **kwargs
        `Layer`'s arguments.

    Notes
    -----
    Weights: the layer's. A mask (batch, timesteps, ...) is given to the layer step by step, (batch, ...), where the
    layer passes masks on or reads them: one of (batch, timesteps, steps) to a recurrent layer.
    """

    arguments = ("layer",)
    across_time = None
    same_for_every_step = (Activation, Dense, Dropout)
    """Layers that do to a whole sequence what they do to each step."""

    def __init__(self, layer: Layer, *, masks_steps: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.masks_steps = masks_steps
        if not isinstance(layer, Layer):
            raise TypeError(f"layer {self.name!r}: expected a layer; got {layer!r}")
        self.layer = layer
        layer._users.append(self)

    @property
    def states(self) -> Any:
        """The states of the layer inside, where it is stateful."""
        return self.layer.states  # type: ignore[attr-defined]  # a recurrent layer's, or a model's

    def reset_states(self, states: StatesLike | None = None) -> None:
        """Set the states of the layer inside; zeros by default."""
        self.layer.reset_states(states)  # type: ignore[attr-defined]  # as above

    @property
    def stateful(self) -> bool:
        """bool: whether the layer, or a layer in it, keeps states from step to step and call to call."""
        return any(True for _ in self.layer._stateful_layers())

    def _children(self) -> list[tuple[str, Layer | list[Layer]]]:
        return [("layer", self.layer)]

    @classmethod
    def from_config(cls, config: Config, custom_objects: Mapping[str, Any] | None = None) -> Self:
        return cls(**_with_layers(config, custom_objects, "layer"))

    def build(self, input_shape: Shape) -> None:
        if not self.layer.built:
            self.layer.build((input_shape[0], *input_shape[2:]))
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        batch, *sizes = self.layer.compute_output_shape((input_shape[0], *input_shape[2:]))
        return (batch, input_shape[1], *sizes)

    def _check_input(self, shape: Shape) -> None:
        if len(shape) < 3:
            raise ValueError(
                f"layer {self.name!r}: expected an input (batch, timesteps, ...) of at least 3 axes; "
                f"got shape {tuple(shape)}"
            )
        self.layer._check_input((shape[0], *shape[2:]))

    def _to_mask(self, mask: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
        # What is behind the steps is for the layer inside, which may take no mask.
        array = to_numeric(mask, f"layer {self.name!r}: mask")
        if array.ndim < 2 or array.shape[:2] != tuple(shape[:2]):
            raise ValueError(
                f"layer {self.name!r}: expected a mask whose shape begins with {tuple(shape[:2])}; got {array.shape}"
            )
        return np.ascontiguousarray(array, np.bool_)

    def lower(self, builder: plan.Builder, x: plan.Value) -> plan.Value:
        if isinstance(self.layer, self.same_for_every_step):
            y = self.layer.lower(builder, x)
            assert isinstance(y, plan.Value)
            return y
        inner = plan.Builder(precision=builder.precision)
        mask = inner.mask() if x.mask is not None and self.masks_steps else None
        # A stateful layer goes on from step to step, so its steps run one by one, each of the whole batch.
        step = inner.value((x.shape[0] if self.stateful else None, *x.shape[2:]), mask)
        output = self.layer.lower_call(inner, [step], {})
        if not isinstance(output, plan.Value):
            raise UnsupportedLayerError(
                f"layer {self.name!r}: a layer with several outputs cannot be applied to every step"
            )
        reads_mask = any(mask in step.sources for step in inner.steps)
        sources = [x.buffer, *([x.mask] if reads_mask and x.mask is not None else [])]
        inputs = [step.buffer, *([mask] if reads_mask and mask is not None else [])]
        y = builder.value((*x.shape[:2], *output.shape[1:]), self._mask_after(builder, x, output))
        targets, outputs = [y.buffer], [output.buffer]
        for layer, (inner_read, inner_final) in inner.states.items():
            # The layer's states come in and go out with those of the model around it.
            read, before = builder.states.get(layer, ([], []))
            if not before:
                before = [builder.value(state.shape) for state in inner_final]
                read = [state.buffer for state in before]
            final = [builder.value(state.shape) for state in inner_final]
            builder.states[layer] = (read, final)
            sources += [state.buffer for state in before]
            targets += [state.buffer for state in final]
            inputs += inner_read
            outputs += [state.buffer for state in inner_final]
        run = inner.plan(inputs, outputs)
        builder.add(
            plan.EveryStep(tuple(sources), tuple(targets), None, run, reads_mask, self.name)
        )
        return y

    def _mask_after(self, builder: plan.Builder, x: plan.Value, output: plan.Value) -> int | None:
        """The output's mask: the input's, or what is left of it where the layer took its further axes away."""
        if x.mask is None or output.mask is not None or len(x.shape) == 3:
            return x.mask
        mask = builder.mask()
        builder.add(plan.Apply((x.mask,), (mask,), None, _any_within_a_step, np.dtype(bool)))
        return mask


def _any_within_a_step(mask: np.ndarray) -> np.ndarray:
    return np.asarray(mask.reshape(*mask.shape[:2], -1).any(axis=-1))
