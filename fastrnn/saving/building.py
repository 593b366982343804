"""Building the layers that a spec describes, ready to take weights."""

from typing import TYPE_CHECKING, Any, overload

from fastrnn import _trials
from fastrnn.errors import ModelFormatError, UnsupportedLayerError
from fastrnn.saving.spec import LayerSpec, ModelSpec

if TYPE_CHECKING:
    from fastrnn.layers import Layer
    from fastrnn.model import Model


@overload
def build(spec: ModelSpec) -> "Model": ...
@overload
def build(spec: LayerSpec) -> "Layer": ...
def build(spec: LayerSpec | ModelSpec) -> "Layer":
    """Build a model or a layer; what its constructors refuse is an error of the file.

    The weights start as zeros, which take no memory before they are written: a file that declares
    a giant model and does not hold its weights is found out when the weights are looked for. What
    the operations among the layers compute, to learn their shapes, is limited.
    """
    from fastrnn import model
    from fastrnn.layers.base import weights_come_later

    try:
        with weights_come_later(), _trials.limited():
            if isinstance(spec, ModelSpec):
                return model.model_from_spec(spec)
            layer = model.layer_from_spec(spec)
            shape: Any = spec.build_shapes if layer.takes_several else spec.build_shape
            if shape or not layer.takes_several:
                layer.build(shape)  # None is enough for a layer of one input without weights
            return layer
    except (ModelFormatError, UnsupportedLayerError):
        raise
    except (
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise ModelFormatError(f"{spec.class_name} {spec.name!r}: {error}") from error
