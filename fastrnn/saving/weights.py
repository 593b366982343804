"""Putting stored arrays into built layers.

Three ways of finding them: by order in the layers' groups of the older ``.h5`` files, by the path of
attributes through the model in ``.keras`` and ``.weights.h5`` files, and by the attributes of the objects in
TensorFlow's checkpoints. Either way, what the layers
expect is compared with what is stored before anything is read, and nothing is set until everything
is read.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastrnn.errors import ModelFormatError
from fastrnn.layers.base import snake_case
from fastrnn.layers.rnn import RNN
from fastrnn.saving.arrays import StoredArray
from fastrnn.saving.config import parse_version
from fastrnn.saving.hdf5 import Group
from fastrnn.saving.object_graph import TrackedObject
from fastrnn.saving.quantized import StoredArrays
from fastrnn.saving.spec import LayerSpec, LoRA, ModelSpec

if TYPE_CHECKING:
    from fastrnn.layers import Layer
    from fastrnn.model import Model

MAX_STATES = 10_000

Shapes = list[tuple[int, ...]]
Values = dict[tuple[int, str], np.ndarray]
"""The arrays for weights, by the layer's id and the weight's name."""

_NOT_TRAINABLE = {
    "BatchNormalization": {
        "moving_mean",
        "moving_variance",
        "moving_stddev",
        "renorm_mean",
        "renorm_stddev",
    },
    "Normalization": {"mean", "variance", "count"},
}


# How the weights of one layer are stored


@dataclass(frozen=True)
class Layout:
    """One way in which files store the weights of a layer.

    Attributes
    ----------
    stored_shapes : callable
        From the shapes of the layer's weights to those of the arrays in the file.
    convert : callable
        From those arrays to the layer's weights.
    """

    stored_shapes: Callable[[Shapes], Shapes]
    convert: Callable[[list[np.ndarray]], list[np.ndarray]]


_AS_IT_IS = Layout(stored_shapes=lambda shapes: shapes, convert=lambda arrays: arrays)


def _by_gate(file_order: str, layer_order: str) -> Layout:
    """Keras 1: kernel, recurrent kernel and bias of each gate on their own."""
    gates = len(file_order)

    def stored_shapes(shapes: Shapes) -> Shapes:
        return [(*shape[:-1], shape[-1] // gates) for shape in shapes] * gates

    def convert(arrays: list[np.ndarray]) -> list[np.ndarray]:
        each = len(arrays) // gates
        per_gate = [arrays[each * file_order.index(gate) :][:each] for gate in layer_order]
        return [np.concatenate(parts, axis=-1) for parts in zip(*per_gate, strict=True)]

    return Layout(stored_shapes, convert)


def _cudnn(gates: int, merge_biases: Callable[[np.ndarray], np.ndarray]) -> Layout:
    """CuDNN's: kernels gate by gate in its own memory order, a bias for either kernel."""

    def stored_shapes(shapes: Shapes) -> Shapes:
        kernel, recurrent_kernel, *_ = shapes
        return [kernel, recurrent_kernel, (2 * kernel[-1],)]

    def convert(arrays: list[np.ndarray]) -> list[np.ndarray]:
        kernel, recurrent_kernel, bias = arrays
        kernels = [part.T.reshape(part.shape, order="F") for part in np.split(kernel, gates, 1)]
        recurrent = [part.T for part in np.split(recurrent_kernel, gates, 1)]
        return [np.hstack(kernels), np.hstack(recurrent), merge_biases(bias.reshape(2, -1))]

    return Layout(stored_shapes, convert)


def _keras1_conv1d() -> Layout:
    """Keras 1 stored the kernel of a Convolution1D as that of a 2D one of width 1."""

    def stored_shapes(shapes: Shapes) -> Shapes:
        (length, *channels), *bias = shapes
        return [(length, 1, *channels), *bias]

    return Layout(stored_shapes, lambda arrays: [arrays[0][:, 0], *arrays[1:]])


def _filters_first(layout: Layout) -> Layout:
    """Keras 1 stored kernels of channels_first layers as (filters, channels, space...)."""

    def stored_shapes(shapes: Shapes) -> Shapes:
        return [
            (shape[-1], shape[-2], *shape[:-2]) if len(shape) > 1 else shape
            for shape in layout.stored_shapes(shapes)
        ]

    def convert(arrays: list[np.ndarray]) -> list[np.ndarray]:
        return layout.convert(
            [np.moveaxis(one, (0, 1), (-1, -2)) if one.ndim > 1 else one for one in arrays]
        )

    return Layout(stored_shapes, convert)


_LAYOUTS = {
    "LSTMCell": (_by_gate("icfo", "ifco"), _cudnn(4, lambda biases: biases.sum(axis=0))),
    "GRUCell": (_by_gate("zrh", "zrh"), _cudnn(3, lambda biases: biases)),
    "Conv1D": (_keras1_conv1d(), _filters_first(_keras1_conv1d())),
    "ConvLSTMCell": (_by_gate("icfo", "ifco"),),
}
_WITHOUT_WEIGHTS = ("input_layer",)
"""How names of groups begin that files have for layers which a spec may leave out."""

_MOST_NUMBER_BYTES = 8
"""A number of the widest type in files."""

_MOST_PARTS = 4
"""Arrays in a file that one weight may be stored as: a gate each."""

_FLIPPED_BY_THEANO = {
    "Conv1D": {"kernel"},
    "Conv2D": {"kernel"},
    "Conv3D": {"kernel"},
    "Conv2DTranspose": {"kernel"},
    "ConvLSTMCell": {"kernel", "recurrent_kernel"},
}
"""Kernels that Keras on Theano stored mirrored along the space axes."""


# The layers that hold weights

_LORA = ("lora_a", "lora_b")
"""Of the arrays whose product LoRA adds to the first weight of a layer."""


@dataclass(frozen=True, eq=False)
class _Holder:
    """A layer with weights of its own.

    Attributes
    ----------
    layer : Layer
    place : str
        Where it stands in the model, for messages.
    path : tuple of str
        Where it stands in an archive or a checkpoint.
    trainable : bool
    lora : LoRA or None
        What files by order hold beside the layer's weights; others hold the sum.
    quantized : StoredArrays or None
        What files hold instead of the layer's weights.
    """

    layer: "Layer"
    place: str
    path: tuple[str, ...]
    trainable: bool
    lora: LoRA | None = None
    quantized: StoredArrays | None = None

    @property
    def class_name(self) -> str:
        return type(self.layer).__name__

    def names(self, trainable: bool | None = None) -> list[str]:
        """Return the names of all weights, or of those that are (not) trainable."""
        fixed = _NOT_TRAINABLE.get(self.class_name, ())
        is_trainable = {name: self.trainable and name not in fixed for name in self.layer._weights}
        return [name for name in is_trainable if trainable in (None, is_trainable[name])]

    def stored_names(self) -> list[str]:
        """Return the names of the arrays in an archive: those of a quantized layer are not its weights."""
        return self.names() if self.quantized is None else list(self.quantized.described())

    def names_by_order(self, trainable: bool) -> list[str]:
        """Return the names of the arrays that are (not) trainable in a file by order."""
        if self.lora is None and self.quantized is None:
            return self.names(trainable)
        # What is quantized, and what LoRA learns beside, is frozen; LoRA's two come last.
        frozen, *others = self.layer._weights
        fixed = [frozen]
        if self.quantized is not None and self.quantized.quantization.mode == "float8":
            # As a layer that starts so makes them; Keras cannot load those of one that was quantized later.
            names = self.quantized.described()
            own = [name for name in (frozen, "bias") if name in names]
            every = [*(name for name in names if name not in own), *own]
            return every if trainable == self.trainable else []
        if self.quantized is not None:
            fixed = [name for name in self.quantized.described() if name not in others]
        if self.lora is not None:
            others = [*others, *_LORA]
        if trainable:
            return others if self.trainable else []
        if self.trainable:
            return fixed
        return [*others, *fixed] if self.quantized is not None else [*fixed, *others]

    def shapes(self, names: list[str]) -> Shapes:
        return [self._shape(name) for name in names]

    def dtype(self, name: str) -> DTypeLike:
        if name in _LORA:
            return np.float32
        if self.quantized is not None:
            return self.quantized.described()[name][1]
        return self.layer._weights[name].dtype

    def _shape(self, name: str) -> tuple[int, ...]:
        if self.lora is not None and name in _LORA:
            *rows, columns = next(iter(self.layer._weights.values())).shape
            return (*rows, self.lora.rank) if name == _LORA[0] else (self.lora.rank, columns)
        if self.quantized is not None:
            return self.quantized.described()[name][0]
        return tuple(self.layer._weights[name].shape)

    def merge(self, values: Values) -> None:
        """Replace what is stored for a layer that is quantized, or has LoRA, by its weights."""
        own = {
            name: values.pop(key)
            for key in [*values]
            if key[0] == id(self.layer)
            for name in key[1:]
        }
        beside = [own.pop(name) for name in _LORA if name in own]
        weights = own if self.quantized is None else self.quantized.weights(own)
        if self.lora is not None and beside:
            share = np.float32(self.lora.alpha / self.lora.rank)
            first = next(iter(self.layer._weights))
            weights[first] = weights[first] + share * (beside[0] @ beside[1])
        values.update({(id(self.layer), name): array for name, array in weights.items()})


@dataclass(frozen=True, eq=False)
class _Visit:
    """A layer on a walk through a model; the attributes are those of `_Holder`."""

    layer: "Layer"
    spec: Any
    place: str
    path: tuple[str, ...]
    trainable: bool

    def holder(self) -> _Holder:
        """Return the layer as one with weights of its own."""
        quantization = getattr(self.spec, "quantization", None)
        quantized = None if quantization is None else StoredArrays(self.layer, quantization)
        lora = getattr(self.spec, "lora", None)
        return _Holder(self.layer, self.place, self.path, self.trainable, lora, quantized)


class _Tree:
    """The archive's names for the layers of a model, which are those of classes with a counter.

    Keras 2.12 and 2.13 listed the layers that have weights twice and counted both.

    Attributes
    ----------
    keys : dict
        From the path of each model's layers that was met to the names of these.
    """

    def __init__(self, container: str = "layers") -> None:
        self.container = container
        self.count_twice = container != "layers"
        self.first_path: dict[int, tuple[str, ...]] = {}
        self.keys: dict[tuple[str, ...], set[str]] = {}

    def walk(
        self,
        layer: Any,
        spec: Any,
        place: str = "",
        path: tuple[str, ...] = (),
        trainable: bool = True,
    ) -> "Iterator[_Visit]":
        """Yield a layer and all layers in it, or those of a model, in the order of their ``weights``."""
        shared_id = getattr(spec, "shared_id", None)
        if shared_id is not None:
            path = self.first_path.setdefault(shared_id, path)
        name = f"{type(layer).__name__} {layer.name!r}"
        place = f"{place} > {name}" if place else name
        if isinstance(spec, ModelSpec):
            trainable = trainable and spec.trainable
            members = list(self.members(layer, spec))
            own_keys = self.keys.setdefault((*path, self.container), set())
            own_keys.update(keys[-1] for _, _, keys in members)
            for part, part_spec, keys in members:
                yield from self.walk(part, part_spec, place, (*path, *keys), trainable)
            return
        trainable = trainable and getattr(layer, "trainable", True)
        yield _Visit(layer, spec, place, path, trainable)
        for attribute, child in layer._children():
            specs = spec.config.get(attribute) if spec else None
            if isinstance(child, list):
                for i, (one, key) in enumerate(zip(child, self.keys_of_list(child), strict=True)):
                    one_spec = specs[i] if specs else None
                    yield from self.walk(one, one_spec, place, (*path, attribute, key), trainable)
            else:
                yield from self.walk(child, specs, place, (*path, attribute), trainable)

    def holders(self, layer: Any, spec: Any) -> Iterator[_Holder]:
        """Yield every `_Holder` in a layer or model, in the order of its ``weights``."""
        for visit in self.walk(layer, spec):
            if visit.layer._weights:
                yield visit.holder()

    def keys_of_list(self, children: "list[Layer]") -> list[str]:
        """Return the names of the layers in a list that is a layer's attribute."""
        return _class_keys([snake_case(type(one).__name__) for one in children])

    def members(
        self, model: "Model", spec: ModelSpec
    ) -> "Iterator[tuple[Layer, LayerSpec | ModelSpec, tuple[str, ...]]]":
        """Yield the layers of a model with their specs and the ends of their paths; operations have none."""
        pairs = [
            (layer, layer_spec)
            for layer, layer_spec in zip(model._layers, spec.layers, strict=True)
            if not layer_spec.class_name.startswith("ops.")
        ]
        stems = [snake_case(layer_spec.class_name) for _, layer_spec in pairs]
        steps = [2 if self.count_twice and layer.weights else 1 for layer, _ in pairs]
        for (layer, layer_spec), key in zip(pairs, _class_keys(stems, steps), strict=True):
            yield layer, layer_spec, (self.container, key)


class _TrackedTree(_Tree):
    """The names of TensorFlow's checkpoints for the layers of a model, which are counted one like the other."""

    def members(
        self, model: "Model", spec: ModelSpec
    ) -> "Iterator[tuple[Layer, LayerSpec | ModelSpec, tuple[str, ...]]]":
        for i, (layer, layer_spec) in enumerate(zip(model._layers, spec.layers, strict=True)):
            yield layer, layer_spec, (f"layer-{i - spec.unlisted_inputs}",)

    def keys_of_list(self, children: "list[Layer]") -> list[str]:
        return [str(i) for i in range(len(children))]


def _class_keys(stems: list[str], steps: list[int] | None = None) -> list[str]:
    counts: Counter[str] = Counter()
    keys = []
    for stem, step in zip(stems, steps or [1] * len(stems), strict=True):
        keys.append(f"{stem}_{counts[stem]}" if counts[stem] else stem)
        counts[stem] += step
    return keys


# Assigning


class ArrayInMemory:
    """An array with the interface of `fastrnn.saving.arrays.StoredArray`."""

    def __init__(self, array: ArrayLike, place: str) -> None:
        self._array = np.asarray(array)
        self.place = place
        self.shape = self._array.shape

    def read(self, dtype: DTypeLike) -> np.ndarray:
        return self._array.astype(dtype)  # a copy, in whatever dtype


Arrays = Sequence[StoredArray]
Parts = list[tuple[_Holder, list[str]]]
"""Which weights of which layers, in the order of the arrays for them."""


def assign_stored(model: "Model", spec: ModelSpec, root: Group | TrackedObject) -> None:
    """Fill a built model with the weights of a file, and with the states that a SavedModel holds.

    Parameters
    ----------
    model : Model
        As built from `spec`, every layer with its weights.
    spec : ModelSpec
    root : fastrnn.saving.hdf5.Group or fastrnn.saving.object_graph.TrackedObject
        The root of a whole-model ``.h5`` file, of a weights file, of an archive's weights or of a checkpoint.

    Raises
    ------
    ModelFormatError
        If a weight is missing, left over, or not of the expected shape or type. The model is then
        as it was.
    """
    if isinstance(root, TrackedObject):
        root = _tracked_model(root)
        values, states = _find_by_attributes(model, spec, root), _find_states(model, spec, root)
        _set(model, spec, values)
        _set_states(states)
        return
    group = root.group("model_weights") or root
    names = group.texts("layer_names")
    if names is not None:
        stored = [(name, _arrays_of_layer(group, name)) for name in names]
        version = parse_version(group.text("keras_version") or root.text("keras_version"))
        values = _find_by_order(model, spec, stored, group, version)
        if group.text("backend") == "theano":
            _mirror_kernels(model, spec, values)
    else:
        values = _find_by_path(model, spec, root)
    _set(model, spec, values)


def assign_arrays(
    layer: "Layer",
    spec: LayerSpec | ModelSpec,
    arrays: Sequence[ArrayLike],
    trainable_first: bool,
) -> None:
    """Fill a built layer or model with arrays in the order of a Keras object's ``weights``.

    Keras 2 lists trainable weights before the others, Keras 3 those of each layer together.
    """
    holders = list(_Tree().holders(layer, spec))
    stored = [ArrayInMemory(array, f"weight {i}") for i, array in enumerate(arrays)]
    parts = _trainable_first(holders) if trainable_first else _all_of(holders)
    _set(layer, spec, _match(parts, stored, f"{type(layer).__name__} {layer.name!r}"))


def _arrays_of_layer(group: Group, name: str) -> Arrays:
    layer_group = group.group(name)
    if layer_group is None:
        raise ModelFormatError(f"{group.place} has no group for the layer {name!r}")
    arrays = []
    for weight_name in layer_group.texts("weight_names") or ():
        array = layer_group.array(weight_name)
        if array is None:
            raise ModelFormatError(f"{layer_group.place} has no array {weight_name!r}")
        arrays.append(array)
    return arrays


def _find_by_order(
    model: "Model",
    spec: ModelSpec,
    stored: list[tuple[str, Arrays]],
    group: Group,
    version: tuple[int, ...],
) -> Values:
    """Pair the layers that have weights with the groups that have arrays, in order."""
    stored = [(name, arrays) for name, arrays in stored if arrays]
    expected = []
    for layer, layer_spec in zip(model._layers, spec.layers, strict=True):
        holders = list(_Tree().holders(layer, layer_spec))
        if holders:
            expected.append((layer, holders))
    if len(stored) != len(expected):
        raise ModelFormatError(
            f"{group.place} holds weights for {len(stored)} layers "
            f"({_listing(name for name, _ in stored)}), the model has {len(expected)} with weights "
            f"({_listing(layer.name for layer, _ in expected)})"
        )
    values: Values = {}
    for (_, holders), (name, arrays) in zip(expected, stored, strict=True):
        place = f"{group.place} > {name}"
        values |= _match(_trainable_first(holders), arrays, place, version)
    return values


def _find_by_path(model: "Model", spec: ModelSpec, root: Group) -> Values:
    containers = ("layers", "_layer_checkpoint_dependencies")
    tops = {name.split("\\")[0] for name in root.names()}
    container = next((name for name in containers if name in tops), None)
    if container is None:
        raise ModelFormatError(f"{root.place} holds no weights of a Keras model")
    values: Values = {}
    tree = _Tree(container)
    for holder in tree.holders(model, spec):
        group = _group_at(root, holder.path)
        if group is None:
            raise ModelFormatError(
                f"{root.place} has no {'/'.join(holder.path)}/vars for {holder.place}"
            )
        stored: list[StoredArray] = []
        while (array := group.array(str(len(stored)))) is not None:
            stored.append(array)
        values |= _match(_all_of([holder]), stored, group.place)
    if not tree.count_twice:
        _refuse_others(root, tree)
    return values


def _refuse_others(root: Group, tree: "_Tree") -> None:
    """Raise ModelFormatError if the file holds weights of layers that a model of the tree does not have."""
    for path, keys in tree.keys.items():
        group = root.group("/".join(path))
        if group is None:
            continue
        for name in group.names():
            if name in keys or name.startswith(_WITHOUT_WEIGHTS):
                continue
            own = group.group(name)
            inside = own.names() if own is not None else []
            places = [name, *(f"{name}/{part}" for part in inside if part != "vars")]
            held = [group.group(f"{place}/vars") for place in places]
            if any(one is not None and one.names() for one in held):
                raise ModelFormatError(
                    f"{group.place} holds weights of {name!r}, a layer that the model does not have"
                )


def _group_at(root: Group, path: tuple[str, ...]) -> Group | None:
    """Return the group of a layer's own weights.

    Keras on Windows joined names by backslashes; attributes that are public in one version are private in another.
    """
    *outer, last = path
    for name in (last, f"_{last}"):
        for separator in "/\\":
            group = root.group(separator.join([*outer, name]) + "/vars")
            if group is not None:
                return group
    return None


def _tracked_model(root: TrackedObject) -> TrackedObject:
    """Return the model in a checkpoint, which may be the one model that a ``tf.train.Checkpoint`` was made of."""
    candidates = [root, *filter(None, map(root.child, root.names()))]
    models = [one for one in candidates if one.child("layer-0") is not None]
    if models[:1] == [root] or len(models) == 1:
        return models[0]
    if models:
        raise ModelFormatError(
            f"{root.place} holds the models {_listing(one.path[-1] for one in models)}; expected one"
        )
    raise ModelFormatError(f"{root.place} tells of no Sequential or functional model of Keras 2")


def _find_by_attributes(model: "Model", spec: ModelSpec, root: TrackedObject) -> Values:
    surplus = f"layer-{len(spec.layers) - spec.unlisted_inputs}"
    if root.child(surplus) is not None:
        raise ModelFormatError(f"{root.place} holds more layers than the model has")
    values: Values = {}
    for holder in _TrackedTree().holders(model, spec):
        found = _object_at(root, holder.path)
        if found is None:
            raise ModelFormatError(
                f"{root.place} has no {'/'.join(holder.path)} for {holder.place}"
            )
        by_name = found.variables()
        names = holder.stored_names()
        if set(names) <= set(by_name):
            stored = [by_name[name] for name in names]
        else:  # a layer of the caller's own may call them otherwise, and some have two names
            stored = list({array.place: array for array in by_name.values()}.values())
        values |= _match(_all_of([holder]), stored, found.place)
    return values


def _object_at(root: TrackedObject, path: tuple[str, ...]) -> TrackedObject | None:
    """Return the object of a layer; attributes may be private there, and layers of CuDNN have no cell."""
    found: TrackedObject | None = root
    for name in path:
        if found is None:
            return None
        held = found.child(name) or found.child(f"_{name}")
        is_cell_itself = held is None and name == "cell" and found.variables()
        found = found if is_cell_itself else held
    return found


def _find_states(
    model: "Model", spec: ModelSpec, root: TrackedObject
) -> "list[tuple[RNN, list[np.ndarray], str]]":
    """Return the states that stateful layers had when they were saved, flat."""
    states = []
    bytes_read = 0
    for visit in _TrackedTree().walk(model, spec):
        layer = visit.layer
        found = _object_at(root, (*visit.path, "keras_api", "states"))
        if found is None or not isinstance(layer, RNN) or not layer.stateful:
            continue
        stored = _arrays_in_list(found)
        bytes_read += sum(math.prod(array.shape) for array in stored) * _MOST_NUMBER_BYTES
        if bytes_read > root.max_bytes:
            raise ModelFormatError(
                f"{found.place}: the states up to here may take {bytes_read} bytes; at most {root.max_bytes} may be "
                "taken; see max_bytes of load_model"
            )
        if stored:  # there are none before the first call
            arrays = [array.read(layer.compute_dtype) for array in stored]
            states.append((layer, arrays, found.place))
    return states


def _arrays_in_list(found: TrackedObject) -> list[StoredArray]:
    """Return the variables in a list of variables and of such lists."""
    arrays: list[StoredArray] = []
    rest = [found]
    for _ in range(MAX_STATES):
        if not rest:
            return arrays
        item = rest.pop()
        variable = item.variable()
        if variable is not None:
            arrays.append(variable)
            continue
        items = [item.child(str(i)) for i in range(len(item.names()))]
        rest += [one for one in reversed(items) if one is not None]
    raise ModelFormatError(f"{found.place} holds more than {MAX_STATES} states and lists of them")


def _set_states(states: "list[tuple[RNN, list[np.ndarray], str]]") -> None:
    for layer, arrays, place in states:
        try:
            layer.reset_states(arrays)
        except ValueError as error:
            raise ModelFormatError(f"{place}: {error}") from error


def _all_of(holders: list[_Holder]) -> Parts:
    return [(holder, holder.stored_names()) for holder in holders]


def _trainable_first(holders: list[_Holder]) -> Parts:
    trainable = [(holder, holder.names_by_order(True)) for holder in holders]
    fixed = [(holder, holder.names_by_order(False)) for holder in holders]
    return [(holder, names) for holder, names in trainable + fixed if names]


def _match(
    parts: Parts, stored: Arrays, place: str, version: tuple[int, ...] | None = None
) -> Values:
    """Read the stored arrays, in order, for the weights in `parts`; `version` is of their Keras.

    Returns a dict from (layer's id, weight's name) to array.
    """
    values: Values = {}
    taken = 0
    for holder, names in parts:
        shapes = holder.shapes(names)
        rest = stored[taken : taken + _MOST_PARTS * len(shapes)]
        layout, count = _layout_of(holder, shapes, rest, place, version)
        dtypes = [holder.dtype(name) for name in names]
        dtypes = dtypes if count == len(names) else dtypes[:1] * count
        arrays = [array.read(dtype) for array, dtype in zip(rest, dtypes, strict=False)]
        arrays = layout.convert(arrays)
        if [array.shape for array in arrays] != shapes:
            raise _mismatch(holder, shapes, rest, place)
        for name, array in zip(names, arrays, strict=True):
            values[id(holder.layer), name] = array
        taken += count
    for holder in {id(holder): holder for holder, _ in parts}.values():
        if holder.lora is not None or holder.quantized is not None:
            holder.merge(values)
    if taken < len(stored):
        raise ModelFormatError(
            f"{place} holds {len(stored) - taken} arrays more than the model takes"
        )
    return values


def _layout_of(
    holder: _Holder,
    shapes: Shapes,
    stored: Arrays,
    place: str,
    version: tuple[int, ...] | None,
) -> tuple[Layout, int]:
    """Return the layout that fits the next stored arrays, and of how many arrays it is."""
    found = [array.shape for array in stored]
    layouts = [_AS_IT_IS, *_LAYOUTS.get(holder.class_name, ())]
    channels_first = getattr(holder.layer, "data_format", None) == "channels_first"
    if channels_first and version is not None and version < (2,):
        layouts = [_filters_first(layout) for layout in layouts]
    for layout in layouts:
        expected = layout.stored_shapes(shapes)
        if found[: len(expected)] == expected:
            return layout, len(expected)
    raise _mismatch(holder, shapes, stored, place)


def _mismatch(holder: _Holder, shapes: Shapes, stored: Arrays, place: str) -> ModelFormatError:
    found = _listing(array.shape for array in stored[: len(shapes)])
    return ModelFormatError(
        f"{holder.place} takes arrays of the shapes {_listing(shapes)}; "
        f"{place} holds {found or 'none'}"
    )


def _listing(items: Iterable[object]) -> str:
    texts = [str(item) for item in items]
    return ", ".join(texts if len(texts) <= 8 else [*texts[:8], "..."])


def _mirror_kernels(model: "Model", spec: ModelSpec, values: Values) -> None:
    for holder in _Tree().holders(model, spec):
        for name in _FLIPPED_BY_THEANO.get(holder.class_name, ()):
            kernel = values[id(holder.layer), name]
            values[id(holder.layer), name] = np.flip(kernel, tuple(range(kernel.ndim - 2)))


def _set(layer: Any, spec: LayerSpec | ModelSpec, values: Values) -> None:
    if isinstance(spec, ModelSpec):
        for part, part_spec in zip(layer._layers, spec.layers, strict=True):
            _set(part, part_spec, values)
        return
    holders = _Tree().holders(layer, spec)
    weights = [values[id(holder.layer), name] for holder in holders for name in holder.names()]
    if weights:
        layer._take_weights(iter(weights), adopt=True)
