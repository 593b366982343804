"""One example of every layer that fastrnn has, by the layer's name: how to make it, and what shapes it takes.

The maker gets a package, `keras` or `fastrnn`, and returns its layer. Shapes are without the batch; a list of them is
one argument, the inputs of a layer with several, a tuple of them is several arguments.
"""

from typing import Any

import keras

SEQUENCE, IMAGE, VOLUME = (6, 4), (6, 5, 4), (4, 5, 6, 2)

_SPATIAL = {1: SEQUENCE, 2: IMAGE, 3: VOLUME}


def arguments_of(shapes: Any, make: Any) -> list[Any]:
    """The arguments of a call, `make` of each shape."""
    if isinstance(shapes, list):
        return [[make(shape) for shape in shapes]]
    several = isinstance(shapes[0], tuple)
    return [make(shape) for shape in (shapes if several else [shapes])]


def _maker(name: str, *args: Any, **options: Any) -> Any:
    return lambda package: getattr(package.layers, name)(*args, **options)


def _of_every_rank(names: str, *args: Any, ranks: tuple[int, ...] = (1, 2, 3)) -> dict[str, Any]:
    """Examples of families such as "Cropping", whose members differ by the number of axes."""
    return {
        f"{name}{rank}D": (_maker(f"{name}{rank}D", *args), _SPATIAL[rank])
        for name in names.split()
        for rank in ranks
    }


def _conv_lstm_cell(package: Any) -> Any:
    # Keras has it, but does not show it.
    module = keras.src.layers.rnn.conv_lstm if package is keras else package.layers
    return module.ConvLSTMCell(2, 3, 2)


def _stack(package: Any) -> list[Any]:
    return [package.layers.LSTMCell(3), package.layers.GRUCell(5)]


EXAMPLES: dict[str, tuple[Any, Any]] = {
    "RNN": (lambda package: package.layers.RNN(_stack(package)), SEQUENCE),
    "SimpleRNN": (_maker("SimpleRNN", 3), SEQUENCE),
    "LSTM": (_maker("LSTM", 3), SEQUENCE),
    "GRU": (_maker("GRU", 3), SEQUENCE),
    **{
        f"ConvLSTM{rank}D": (_maker(f"ConvLSTM{rank}D", 3, 2), (3, *image))
        for rank, image in _SPATIAL.items()
    },
    "Bidirectional": (
        lambda package: package.layers.Bidirectional(package.layers.LSTM(3)),
        SEQUENCE,
    ),
    "TimeDistributed": (
        lambda package: package.layers.TimeDistributed(package.layers.Dense(3)),
        SEQUENCE,
    ),
    "SimpleRNNCell": (_maker("SimpleRNNCell", 3), (4,)),
    "LSTMCell": (_maker("LSTMCell", 3), (4,)),
    "GRUCell": (_maker("GRUCell", 3), (4,)),
    "ConvLSTMCell": (_conv_lstm_cell, IMAGE),
    "StackedRNNCells": (lambda package: package.layers.StackedRNNCells(_stack(package)), (4,)),
    "Embedding": (_maker("Embedding", 2, 3), (6,)),
    "Masking": (_maker("Masking"), SEQUENCE),
    "Activation": (_maker("Activation", "tanh"), SEQUENCE),
    "Dense": (_maker("Dense", 3, activation="relu"), SEQUENCE),
    **{name: (_maker(name), SEQUENCE) for name in ("ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax")},
    "ActivityRegularization": (_maker("ActivityRegularization"), SEQUENCE),
    **{
        name: (_maker(name, 0.2), SEQUENCE)
        for name in ("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise")
    },
    **_of_every_rank("SpatialDropout", 0.2),
    **_of_every_rank("Cropping UpSampling ZeroPadding", 1),
    "Flatten": (_maker("Flatten"), SEQUENCE),
    "Identity": (_maker("Identity"), SEQUENCE),
    "Permute": (_maker("Permute", (2, 1)), SEQUENCE),
    "RepeatVector": (_maker("RepeatVector", 3), (4,)),
    "Reshape": (_maker("Reshape", (4, 6)), SEQUENCE),
    **_of_every_rank("AveragePooling MaxPooling", 2),
    **_of_every_rank("GlobalAveragePooling GlobalMaxPooling"),
    **{
        name: (_maker(name), [SEQUENCE, SEQUENCE])
        for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
    },
    "Dot": (_maker("Dot", axes=2), [SEQUENCE, (5, 4)]),
    **{
        name: (_maker(name), SEQUENCE)
        for name in (
            "BatchNormalization",
            "LayerNormalization",
            "RMSNormalization",
            "UnitNormalization",
        )
    },
    "GroupNormalization": (_maker("GroupNormalization", 2), SEQUENCE),
    "Normalization": (_maker("Normalization", mean=0.5, variance=2.0), SEQUENCE),
    "Rescaling": (_maker("Rescaling", 0.5, 0.1), SEQUENCE),
    **_of_every_rank("Conv", 3, 2),
    "Conv1DTranspose": (_maker("Conv1DTranspose", 3, 2), SEQUENCE),
    "Conv2DTranspose": (_maker("Conv2DTranspose", 3, 2), IMAGE),
    "Conv3DTranspose": (_maker("Conv3DTranspose", 3, 2), VOLUME),
    **_of_every_rank("DepthwiseConv", 2, ranks=(1, 2)),
    **_of_every_rank("SeparableConv", 3, 2, ranks=(1, 2)),
    "Attention": (_maker("Attention"), [SEQUENCE, (5, 4)]),
    "AdditiveAttention": (_maker("AdditiveAttention"), [SEQUENCE, (5, 4)]),
    "MultiHeadAttention": (_maker("MultiHeadAttention", 2, 3), (SEQUENCE, (5, 4))),
    "EinsumDense": (_maker("EinsumDense", "abc,cd->abd", (None, 3)), SEQUENCE),
}
