"""fastrnn: recurrent models trained in Keras, run fast on a CPU without Keras.

    import fastrnn
    model = fastrnn.load_model("model.keras")
    y = model.predict(x)

Data flows one way: a file (`saving`) gives configs and weights, these make layers (`layers`) and a model (`model`),
which write a plan (`plan`), which the compiled core (`_core.pyx`) runs on arrays. `reference` holds the same
mathematics in NumPy.
"""

try:
    import fastrnn._core  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fastrnn's compiled core is missing; install the package with pip, or run `make build`"
    ) from error

from fastrnn import layers, models, ops
from fastrnn._dispatch import get_num_threads, num_threads, set_num_threads, show_config
from fastrnn.errors import (
    ModelFormatError,
    NotStreamableError,
    PoolFullError,
    UnsupportedLayerError,
)
from fastrnn.explanation import explain
from fastrnn.layers import Input, Layer
from fastrnn.model import Functional, Model, Sequential
from fastrnn.saving import from_keras, load_model

__version__ = "0.1.0"

__all__ = [
    "Functional",
    "Input",
    "Layer",
    "Model",
    "ModelFormatError",
    "NotStreamableError",
    "PoolFullError",
    "Sequential",
    "UnsupportedLayerError",
    "__version__",
    "explain",
    "from_keras",
    "get_num_threads",
    "layers",
    "load_model",
    "models",
    "num_threads",
    "ops",
    "set_num_threads",
    "show_config",
]
