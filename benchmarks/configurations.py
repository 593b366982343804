"""The models that are measured: their sizes, their weights and their inputs."""

from dataclasses import dataclass

import numpy as np

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer with Keras's defaults; `cell` is "rnn", "lstm" or "gru"."""

    cell: str
    units: int
    return_sequences: bool = True


@dataclass(frozen=True)
class Dense:
    """A dense layer; `activation` is "linear" or "tanh"."""

    units: int
    activation: str = "linear"


@dataclass(frozen=True)
class Configuration:
    """A stack of layers and the shape (batch, timesteps, features) of its input."""

    layers: tuple[Recurrent | Dense, ...]
    features: int
    batch: int
    timesteps: int

    @property
    def name(self) -> str:
        """Layers with their widths, then batch and timesteps: ``lstm 32->64, 1, 100``."""
        width = self.features
        steps = []
        for layer in self.layers:
            kind = layer.cell if isinstance(layer, Recurrent) else "dense"
            steps.append(f"{kind} {width}->{layer.units}")
            width = layer.units
        return f"{' + '.join(steps)}, {self.batch}, {self.timesteps}"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (batch, timesteps, features)."""
        return self.batch, self.timesteps, self.features

    def parameters(self, seed: int = 0) -> list[list[np.ndarray]]:
        """Draw the weights, bounded by ``1 / sqrt(units)`` so that no gate saturates.

        Returns
        -------
        list of lists of float32 arrays, one list a layer, in Keras's order and layout:
        kernel, recurrent kernel, bias; the bias of a GRU has shape (2, 3 * units).
        """
        generator = np.random.default_rng(seed)
        parameters = []
        width = self.features
        for layer in self.layers:
            bound = layer.units**-0.5
            parameters.append(
                [
                    generator.uniform(-bound, bound, shape).astype(np.float32)
                    for shape in _shapes(layer, width)
                ]
            )
            width = layer.units
        return parameters

    def inputs(self, seed: int = 1) -> np.ndarray:
        """Draw the input from -1..1: float32, C order, shape (batch, timesteps, features)."""
        generator = np.random.default_rng(seed)
        return generator.uniform(-1, 1, self.input_shape).astype(np.float32)


def _shapes(layer: Recurrent | Dense, width: int) -> list[tuple[int, ...]]:
    if isinstance(layer, Dense):
        return [(width, layer.units), (layer.units,)]
    columns = GATES[layer.cell] * layer.units
    bias = (2, columns) if layer.cell == "gru" else (columns,)
    return [(width, columns), (layer.units, columns), bias]


def single(cell: str, features: int, units: int, batch: int, timesteps: int) -> Configuration:
    """One recurrent layer that returns its whole sequence."""
    return Configuration((Recurrent(cell, units),), features, batch, timesteps)


CONFIGURATIONS = (
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
