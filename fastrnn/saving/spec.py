"""What a saved model says, in Keras 3's words and free of the file it came from.

`fastrnn.saving.config` writes these, `fastrnn.model` builds from them. A spec means what the file
meant when it was trained: old names, old defaults and old meanings are already translated, indices
count from 0 everywhere.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from fastrnn._types import Config, Nested, Shape


@dataclass(frozen=True, slots=True)
class TensorRef:
    """One output tensor of one call of a layer.

    Attributes
    ----------
    layer : str
        Name of the layer.
    node : int
        Which call of the layer within its model, from 0. An input layer has the single node 0.
    tensor : int
        Which of the call's outputs, from 0.
    """

    layer: str
    node: int
    tensor: int


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One call of a layer.

    Attributes
    ----------
    layer : str
        Name of the layer that is called.
    args : tuple
        Positional arguments: nested lists, tuples and dicts of `TensorRef` and constants.
    kwargs : dict
        Keyword arguments of the same kinds, such as ``initial_state`` and ``mask``; those that
        only say what is so anyway (``mask=None``, ``training=False``, in Keras 3 any ``training``) are left out.
    """

    layer: str
    args: tuple[Nested, ...]
    kwargs: dict[str, Nested] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoRA:
    """A product of two thin matrices that counts `alpha` / `rank` times beside a kernel, or beside embeddings."""

    rank: int
    alpha: float


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a layer's weights are stored in fewer bits, and what its inputs are rounded to.

    Attributes
    ----------
    mode : {"int8", "int4", "float8"}
    block_size : int or None
        Of int4: how many numbers share a scale and a zero; None is one scale for each output.
    input_range : (int, int) or None
        The whole numbers that inputs are rounded to; None leaves them as they are. Those of float8 are always rounded.
    epsilon : float
        Added to the largest input before its scale is computed.
    amax_history_length : int
        Of float8: how many numbers its histories hold, which count in training only.
    """

    mode: str
    block_size: int | None = None
    input_range: tuple[int, int] | None = None
    epsilon: float = 1e-7
    amax_history_length: int = 1024


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer.

    Attributes
    ----------
    class_name : str
        Keras 3's name of the class; ``ops.Add`` and the like for the operations that the
        functional API records; for a class of the caller's own, the file's name of it.
    name : str
        The layer's own name.
    config : dict
        Arguments for the class's constructor, ``name`` included: plain values, activations as
        strings, layers inside it as `LayerSpec` or `ModelSpec`.
    build_shape : tuple or None
        The input shape that the layer was built with, where the file says so. None stands for an
        unknown size.
    shared_id : int or None
        Equal for two specs that were one shared layer.
    custom : object or None
        The class or function that the caller gave for it.
    build_shapes : tuple of tuple
        The shapes of all inputs that the layer was built with, as far as the file says so.
    lora : LoRA or None
        What was learned beside the kernel, where the layer has that.
    quantization : Quantization or None
    """

    class_name: str
    name: str
    config: Config
    build_shape: Shape | None = None
    shared_id: int | None = None
    custom: Any = None
    build_shapes: tuple[Shape, ...] = ()
    lora: LoRA | None = None
    quantization: Quantization | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A Sequential or functional model.

    Attributes
    ----------
    kind : {"sequential", "functional"}
    name : str
    layers : tuple of LayerSpec or ModelSpec
        In the file's order. Input layers belong to functional models only: a Sequential's is told
        by the fields ``batch_input_shape``, ``input_name`` and ``input_dtype``.
    nodes : tuple of NodeSpec
        Functional models: every call, layer by layer in the order of ``layers``, each layer's in
        the order of their node indices. A Sequential calls its layers one after the other.
    inputs, outputs : nested list and dict of TensorRef, or None
        The structure that the model takes and returns; None for a Sequential.
    batch_input_shape : tuple or None
        Input shape of a Sequential, with the batch axis; None where the file tells none.
    input_name, input_dtype : str or None
        Name and dtype of a Sequential's input, where the file tells them.
    trainable : bool
    shared_id : int or None
        Equal for two specs that were one shared model.
    unlisted_inputs : int
        How many of the first layers are input layers that the file's own list of layers does not have.
    """

    kind: Literal["sequential", "functional"]
    name: str
    layers: "tuple[LayerSpec | ModelSpec, ...]"
    nodes: tuple[NodeSpec, ...] = ()
    inputs: Nested = None
    outputs: Nested = None
    batch_input_shape: Shape | None = None
    input_name: str | None = None
    input_dtype: str | None = None
    trainable: bool = True
    shared_id: int | None = None
    unlisted_inputs: int = 0

    @property
    def class_name(self) -> str:
        """Keras's name of the class, which weight archives use."""
        return "Sequential" if self.kind == "sequential" else "Functional"
