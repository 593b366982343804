"""The exceptions that fastrnn adds to Python's own."""


class UnsupportedLayerError(NotImplementedError):
    """A layer, or an option of one, that fastrnn does not run; the message says where in the model it stands."""


class NotStreamableError(UnsupportedLayerError, ValueError):
    """A layer that cannot run in a stream, since it would need later timesteps; the message says which and why."""


class PoolFullError(RuntimeError):
    """More steps wait in a pool than may; the message says how many that is."""


class ModelFormatError(ValueError):
    """A file that is not a Keras model, is damaged, or contradicts itself."""


DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Python raises where a file holds something of another kind than it should: not to be seen by who loads one."""
