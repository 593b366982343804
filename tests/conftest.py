"""What all tests share: Keras on its NumPy backend, strict warnings, seeded randomness."""

import os

os.environ["KERAS_BACKEND"] = "numpy"

import keras  # noqa: F401
import numpy as np
import pytest
from keras.src.backend.common import dtypes

# Off TensorFlow, Keras computes some float64 operations in float32. With TensorFlow's rule its
# NumPy backend is a judge for float64 too.
dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error:::fastrnn")


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)
