"""Models where Keras has them: the names of `keras.models`."""

from fastrnn.model import Functional, Model, Sequential
from fastrnn.saving import load_model

__all__ = ["Functional", "Model", "Sequential", "load_model"]
