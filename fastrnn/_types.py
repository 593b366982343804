"""The types that signatures share."""

from collections.abc import Callable
from typing import Any

import numpy as np

Shape = tuple[int | None, ...]
"""None where a size is not known before a call."""

Config = dict[str, Any]
"""A JSON object of Keras's."""

Nested = Any
"""Something, or lists, tuples and dicts of it in any depth."""

ActivationFunction = Callable[[np.ndarray], np.ndarray]

ActivationLike = str | Config | ActivationFunction | None
"""What `fastrnn.activations.get` takes."""

InitializerFunction = Callable[..., np.ndarray]
"""From a shape, and a dtype by that name, to the values."""

InitializerLike = str | Config | np.ndarray | InitializerFunction
"""What `fastrnn.initializers.get` takes."""
