"""The graph of a model written with symbolic tensors, in the form that files have, too."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastrnn._nested import flatten, map_structure
from fastrnn._types import Nested
from fastrnn.saving.spec import NodeSpec, TensorRef
from fastrnn.symbolic import Call, KerasTensor, is_input

if TYPE_CHECKING:
    from fastrnn.layers import Layer


def graph(inputs: Nested, outputs: Nested) -> tuple[list["Layer"], list[NodeSpec], Nested, Nested]:
    """Return the graph that leads from `inputs` to `outputs`, both symbolic tensors in any nesting.

    Returns
    -------
    layers : list of Layer
        In Keras's order, which is that of a model's weights. An input that is a tensor within another model's graph
        gets an input layer of its own.
    nodes : list of NodeSpec
        The calls.
    inputs, outputs : TensorRef in any nesting

    Raises
    ------
    TypeError
        If something in `inputs` or `outputs` is no symbolic tensor.
    ValueError
        If an output depends on an input that is not given, or two layers have one name.
    """
    for what, structure in (("inputs", inputs), ("outputs", outputs)):
        for leaf in flatten(structure):
            if not isinstance(leaf, KerasTensor):
                raise TypeError(
                    f"expected {what} of a model as symbolic tensors, from fastrnn.Input and calls on it; got {leaf!r}"
                )
    starts = {tensor: _start(tensor) for tensor in flatten(inputs)}
    ordered, places = _walk(starts, flatten(outputs))
    layers = _by_depth(ordered, places, starts)
    names = [layer.name for layer in layers]
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(f"the name {name!r} is that of {count} layers of one model")
    indices: dict[Call, int] = {}
    counts: dict[Layer, int] = {}
    for call in sorted(ordered, key=lambda call: call.number):
        indices[call] = counts[call.layer] = counts.get(call.layer, -1) + 1

    def reference(leaf: Any) -> Any:
        if not isinstance(leaf, KerasTensor):
            return leaf
        call, index = (starts[leaf], 0) if leaf in starts else (leaf.call, leaf.index)
        return TensorRef(call.layer.name, indices.get(call, 0), index)

    given = set(starts.values())
    calls = [call for call in indices if call not in given]
    nodes = [
        NodeSpec(
            call.layer.name,
            map_structure(reference, call.args),
            map_structure(reference, call.kwargs),
        )
        for call in calls
    ]
    return layers, nodes, map_structure(reference, inputs), map_structure(reference, outputs)


def _start(tensor: KerasTensor) -> Call:
    from fastrnn.layers import InputLayer

    if is_input(tensor):
        return tensor.call
    layer = InputLayer(batch_shape=tensor.shape, dtype=tensor.dtype)
    return Call(layer, (), {})


def _walk(
    starts: dict[KerasTensor, Call], outputs: list[KerasTensor]
) -> tuple[list[Call], dict["Layer", int]]:
    """The calls that `outputs` need, each after those it needs, and the layers in the order in which they are met."""
    done: dict[Call, None] = {}
    places: dict[Layer, int] = {}
    path: list[tuple[Call, Iterator[KerasTensor]]] = []

    def enter(tensor: KerasTensor) -> None:
        if is_input(tensor) and tensor not in starts:
            raise ValueError(
                f"the outputs depend on {tensor!r}, which is not among the model's inputs"
            )
        call = starts.get(tensor, tensor.call)
        if call not in done:
            places.setdefault(call.layer, len(places))
            path.append((call, iter(call.tensors)))

    for output in outputs:
        enter(output)
        while path:
            call, rest = path[-1]
            parent = next(rest, None)
            if parent is not None:
                enter(parent)
            else:
                done[call] = None
                path.pop()
    return list(done), places


def _by_depth(
    ordered: list[Call], places: dict["Layer", int], starts: dict[KerasTensor, Call]
) -> list["Layer"]:
    """The layers by how many calls there are at most from theirs to an output, the farthest first."""
    depths: dict[Call, int] = {}
    layer_depths: dict[Layer, int] = {}
    for call in reversed(ordered):
        depth = max(depths.get(call, 0), layer_depths.get(call.layer, 0))
        layer_depths[call.layer] = depths[call] = depth
        for tensor in call.tensors:
            parent = starts.get(tensor, tensor.call)
            depths[parent] = max(depths.get(parent, 0), depth + 1)
    for call in starts.values():
        layer_depths.setdefault(call.layer, 0)
    return sorted(layer_depths, key=lambda layer: (-layer_depths[layer], places.get(layer, -1)))
