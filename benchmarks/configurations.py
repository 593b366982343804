"""The models that are measured: their sizes, their weights and their inputs."""

from dataclasses import dataclass

import numpy as np

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer with Keras's defaults; `cell` is "rnn", "lstm" or "gru".

    Two of them, one a direction, whose outputs are side by side, if it is `bidirectional`.
    """

    cell: str
    units: int
    return_sequences: bool = True
    bidirectional: bool = False

    @property
    def kind(self) -> str:
        """Its name in that of a configuration."""
        return f"bidirectional {self.cell}" if self.bidirectional else self.cell

    @property
    def width(self) -> int:
        """Features of its output."""
        return self.units * (2 if self.bidirectional else 1)


@dataclass(frozen=True)
class Dense:
    """A dense layer; `activation` is "linear" or "tanh"."""

    units: int
    activation: str = "linear"
    kind = "dense"

    @property
    def width(self) -> int:
        """Features of its output."""
        return self.units


@dataclass(frozen=True)
class Embedding:
    """A table of `units` numbers a row; the first layer, with as many rows as the configuration has features."""

    units: int
    kind = "embedding"

    @property
    def width(self) -> int:
        """Features of its output."""
        return self.units


@dataclass(frozen=True)
class ConvLSTM:
    """A ConvLSTM2D of `units` filters of `kernel` x `kernel`, padding "same", that returns its whole sequence."""

    units: int
    kernel: int
    kind = "convlstm2d"

    @property
    def width(self) -> int:
        """Channels of its output."""
        return self.units


Layer = Recurrent | Dense | Embedding | ConvLSTM


@dataclass(frozen=True)
class Configuration:
    """A stack of layers and the shape (batch, timesteps, features) of its input.

    Of numbers below `features`, (batch, timesteps), if the first is an Embedding; with a size of images
    (batch, timesteps, size, size, features).
    """

    layers: tuple[Layer, ...]
    features: int
    batch: int
    timesteps: int
    size: int | None = None

    @property
    def name(self) -> str:
        """Layers with their widths, then batch and timesteps: ``lstm 32->64, 1, 100``."""
        width = self.features
        steps = []
        for layer in self.layers:
            steps.append(f"{layer.kind} {width}->{layer.units}")
            width = layer.width
        image = f", {self.size}x{self.size}" if self.size else ""
        return f"{' + '.join(steps)}, {self.batch}, {self.timesteps}{image}"

    @property
    def of_indices(self) -> bool:
        """Whether the input is of whole numbers."""
        return isinstance(self.layers[0], Embedding)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input, batch first."""
        sequence = self.batch, self.timesteps
        if self.of_indices:
            return sequence
        image = (self.size, self.size) if self.size else ()
        return (*sequence, *image, self.features)

    def parameters(self, seed: int = 0) -> list[list[np.ndarray]]:
        """Draw the weights, bounded by ``1 / sqrt(units)`` so that no gate saturates.

        Returns
        -------
        list of lists of float32 arrays, one list a layer, in Keras's order and layout:
        kernel, recurrent kernel, bias; the bias of a GRU has shape (2, 3 * units). The
        backward direction's follow the forward direction's.
        """
        generator = np.random.default_rng(seed)
        parameters = []
        width = self.features
        for layer in self.layers:
            bound = 1.0 if isinstance(layer, Embedding) else layer.units**-0.5
            if isinstance(layer, ConvLSTM):
                bound /= layer.kernel
            parameters.append(
                [
                    generator.uniform(-bound, bound, shape).astype(np.float32)
                    for shape in _shapes(layer, width)
                ]
            )
            width = layer.width
        return parameters

    def inputs(self, seed: int = 1) -> np.ndarray:
        """Draw the input: float32 from -1..1, or int32 from 0..features - 1; C order."""
        generator = np.random.default_rng(seed)
        if self.of_indices:
            return generator.integers(0, self.features, self.input_shape, np.int32)
        return generator.uniform(-1, 1, self.input_shape).astype(np.float32)


def _shapes(layer: Layer, width: int) -> list[tuple[int, ...]]:
    if isinstance(layer, Embedding):
        return [(width, layer.units)]
    if isinstance(layer, Dense):
        return [(width, layer.units), (layer.units,)]
    if isinstance(layer, ConvLSTM):
        window, columns = (layer.kernel, layer.kernel), 4 * layer.units
        return [(*window, width, columns), (*window, layer.units, columns), (columns,)]
    columns = GATES[layer.cell] * layer.units
    bias = (2, columns) if layer.cell == "gru" else (columns,)
    return [(width, columns), (layer.units, columns), bias] * (2 if layer.bidirectional else 1)


def single(cell: str, features: int, units: int, batch: int, timesteps: int) -> Configuration:
    """One recurrent layer that returns its whole sequence."""
    return Configuration((Recurrent(cell, units),), features, batch, timesteps)


def bidirectional(
    cell: str, features: int, units: int, batch: int, timesteps: int
) -> Configuration:
    """One recurrent layer in both directions that returns its whole sequence."""
    return Configuration((Recurrent(cell, units, bidirectional=True),), features, batch, timesteps)


DESIGN = (
    Configuration((Recurrent("rnn", 2, return_sequences=False), Dense(1)), 1, 1, 12),
    single("rnn", 1, 2, 1, 12),
    single("rnn", 32, 128, 1, 100),
    single("rnn", 32, 128, 32, 100),
    single("lstm", 1, 16, 1, 100),
    single("lstm", 32, 64, 1, 100),
    single("lstm", 64, 128, 1, 100),
    single("lstm", 64, 256, 1, 100),
    single("lstm", 256, 1024, 1, 50),
    single("lstm", 64, 128, 32, 100),
    single("lstm", 256, 512, 64, 50),
    single("gru", 32, 64, 1, 100),
    single("gru", 64, 128, 32, 100),
)

MODELS = (
    bidirectional("lstm", 32, 64, 1, 100),
    bidirectional("lstm", 64, 128, 1, 100),
    bidirectional("lstm", 64, 256, 1, 100),
    bidirectional("lstm", 64, 128, 32, 100),
    bidirectional("gru", 64, 128, 1, 100),
    Configuration((ConvLSTM(16, 3),), 1, 1, 10, size=32),
    Configuration((ConvLSTM(64, 3),), 1, 1, 10, size=64),
    # Models that people have: a forecast from one number a step, a text's class, a tag for every word.
    Configuration((Recurrent("lstm", 50), Recurrent("lstm", 50, False), Dense(1)), 1, 1, 60),
    Configuration((Embedding(64), Recurrent("lstm", 64, False), Dense(1)), 10000, 1, 100),
    Configuration((Embedding(64), Recurrent("lstm", 64, False), Dense(1)), 10000, 32, 100),
    Configuration((*(Recurrent("lstm", 64, bidirectional=True),) * 2, Dense(9)), 50, 1, 100),
)
