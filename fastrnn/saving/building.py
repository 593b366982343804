"""Building the layers that a spec describes, ready to take weights."""

from typing import TYPE_CHECKING, Any, overload

from fastrnn import _trials
from fastrnn.errors import DAMAGE, ModelFormatError, UnsupportedLayerError
from fastrnn.saving.spec import LayerSpec, ModelSpec

if TYPE_CHECKING:
    from fastrnn.layers import Layer
    from fastrnn.model import Model


@overload
def build(spec: ModelSpec, max_bytes: int | None = None) -> "Model": ...
@overload
def build(spec: LayerSpec, max_bytes: int | None = None) -> "Layer": ...
def build(spec: LayerSpec | ModelSpec, max_bytes: int | None = None) -> "Layer":
    """Build a model or a layer; what its constructors refuse is an error of the file.

    The weights start as zeros that take no memory: a file that declares a giant model is found out here, if its
    weights would take more than `max_bytes`, or when they are looked for and not there. What the operations among the
    layers compute, to learn their shapes, is limited.
    """
    from fastrnn import model
    from fastrnn.layers.base import weights_come_later

    try:
        with weights_come_later(), _trials.limited(max_bytes):
            if isinstance(spec, ModelSpec):
                built: Layer = model.model_from_spec(spec)
            else:
                built = model.layer_from_spec(spec)
                shape: Any = spec.build_shapes if built.takes_several else spec.build_shape
                if shape or not built.takes_several:
                    built.build(shape)  # None is enough for a layer of one input without weights
    except (ModelFormatError, UnsupportedLayerError):
        raise
    except DAMAGE as error:
        raise ModelFormatError(f"{spec.class_name} {spec.name!r}: {error}") from error
    declared = weight_bytes(built)
    if max_bytes is not None and declared > max_bytes:
        raise ModelFormatError(
            f"{spec.class_name} {spec.name!r} declares weights of {declared} bytes, which is more than {max_bytes}; "
            "give a larger max_bytes if you trust the file"
        )
    return built


def weight_bytes(layer: "Layer") -> int:
    """Return what the weights take in memory, those of layers in several places once."""
    return sum({id(weight): weight.nbytes for weight in layer.weights}.values())
