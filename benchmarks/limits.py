"""The shortest time in which a machine could run a configuration.

For each layer, on n threads that share the work evenly:

    projection FLOPs / FMA peak
    + steps x max(recurrent FLOPs / FMA peak, recurrent weight bytes / bandwidth of the level they fit in)
    + activations x the cost of one

A thread reads its part of the weights, 1 / n, in every step, from the nearest cache that holds that part. All the rest,
such as reading inputs and writing outputs, and the call itself, is taken to cost nothing.
"""

import dataclasses

from benchmarks.configurations import GATES, Configuration, ConvLSTM, Dense, Embedding, Layer
from benchmarks.machine import Machine

FLOAT = 4
TANHS = {"rnn": 1, "gru": 1, "lstm": 2}
SIGMOIDS = {"rnn": 0, "gru": 2, "lstm": 3}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a layer has to do: `flops`, `tanhs` and `sigmoids` in all, the others in each of its `steps`."""

    flops: float
    steps: int = 0
    recurrent_flops: float = 0
    recurrent_bytes: float = 0
    tanhs: float = 0
    sigmoids: float = 0

    def seconds(self, machine: Machine) -> float:
        """How long it takes at least."""
        threads = machine.threads
        part = self.recurrent_bytes / threads
        step = max(
            self.recurrent_flops / threads / machine.flops, part / machine.level(part).bandwidth
        )
        activations = self.tanhs * machine.tanh + self.sigmoids * machine.sigmoid
        return self.flops / threads / machine.flops + self.steps * step + activations / threads


def works(configuration: Configuration) -> list[Work]:
    """What each layer has to do in a call."""
    found = []
    width, rows = configuration.features, configuration.batch * configuration.timesteps
    looked_up = False
    for layer in configuration.layers:
        found.append(_work(layer, 0 if looked_up else width, rows, configuration))
        looked_up = isinstance(layer, Embedding)
        width = layer.width
        if not getattr(layer, "return_sequences", True):
            rows = configuration.batch
    return found


def _work(layer: Layer, width: int, rows: int, configuration: Configuration) -> Work:
    """Of a layer whose input has `rows` rows of `width` features; 0 if they are looked up, with their products."""
    if isinstance(layer, Embedding):
        return Work(0)
    if isinstance(layer, Dense):
        return Work(
            2 * rows * width * layer.units, tanhs=rows * layer.units * (layer.activation == "tanh")
        )
    if isinstance(layer, ConvLSTM):
        cell, sides, places = "lstm", 1, configuration.size**2
        columns = 4 * layer.units * layer.kernel**2
    else:
        cell, sides, places = layer.cell, 1 + layer.bidirectional, 1
        columns = GATES[cell] * layer.units
    states = sides * places * rows * layer.units
    return Work(
        flops=2 * sides * places * rows * width * columns,
        steps=sides * configuration.timesteps,
        recurrent_flops=2 * configuration.batch * places * layer.units * columns,
        recurrent_bytes=FLOAT * layer.units * columns,
        tanhs=TANHS[cell] * states,
        sigmoids=SIGMOIDS[cell] * states,
    )


def limit(configuration: Configuration, machine: Machine) -> float:
    """Seconds that a call takes at least."""
    return sum(work.seconds(machine) for work in works(configuration))
