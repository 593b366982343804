"""bfloat16 and int8 beside float32, and beside OpenVINO's bfloat16: ``python -m benchmarks.precision``.

With ``--models DIRECTORY`` it also prints how much each precision errs on the trained models there: folders with a
``model.*`` and an ``expected.npz`` of each run's inputs ``r0_in0``, ... and Keras's outputs: ``r0_f64_0``, ... in
float64 or, without these, ``r0_out0``, ... in float32.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import fastrnn
from benchmarks import oracle
from benchmarks.configurations import Configuration, single
from benchmarks.peers import OpenVinoBfloat16, keras_style_model
from benchmarks.worker import Worker, time_calls
from fastrnn.dtypes import PRECISIONS

ROUNDS = 4
SECONDS = 0.4
SIZES = (("lstm", 64, 128, 100), ("lstm", 64, 256, 100), ("lstm", 256, 1024, 50))
SMALLER = (("gru", 64, 128, 100), ("rnn", 32, 128, 100))
CONFIGURATIONS = (
    *(single(*size[:3], batch, size[3]) for batch in (1, 32) for size in (*SIZES, *SMALLER)),
    single("lstm", 64, 512, 1, 100),
    single("lstm", 256, 512, 64, 50),
)


def measure(configuration: Configuration, peer: Worker | None) -> str:
    """Median times of a call by turns, in microseconds, and the largest errors against float64, as a line."""
    x = configuration.inputs()
    models = {}
    for name in PRECISIONS:
        models[name] = keras_style_model(fastrnn, configuration, configuration.parameters())
        models[name].set_precision(name)
    expected, rows = oracle.expected(configuration), oracle.sample(configuration.batch)
    errors = [oracle.error(model(x)[rows], expected) for model in models.values()]
    times: dict[str, list[float]] = {name: [] for name in (*models, "peer")}
    if peer is not None:
        peer.prepare(configuration)
    for _ in range(ROUNDS):
        for name, model in models.items():
            samples = time_calls(lambda model=model: model(x), SECONDS / ROUNDS, 2, SECONDS)
            times[name] += [sample for sample, _ in samples]
        if peer is not None:
            times["peer"] += [sample for sample, _ in peer.measure(SECONDS / ROUNDS, 2, SECONDS)]
    full, *narrow, theirs = (1e6 * np.median(part) if part else np.nan for part in times.values())
    shown = " | ".join(f"{time:.0f} (x {full / time:.2f})" for time in narrow)
    told = ", ".join(f"{error:.0e}" for error in errors)
    return f"| {configuration.name} | {full:.0f} | {shown} | {theirs:.0f} (x {theirs / narrow[0]:.2f}) | {told} |"


def errors_of_models(folder: Path) -> Iterator[str]:
    """The largest and the root mean square error of each model in each precision, of its largest output, as lines.

    Over all runs, one after the other as states want it, and all outputs; then how many of the model's decisions are
    others than those of the expected outputs.
    """
    for case in sorted(folder.glob("*/expected.npz")):
        given = np.load(case)
        path = next(case.parent.glob("model.*"), None)
        if path is None:  # of another format
            continue
        cells, changed, count = [], [], 0
        for precision in PRECISIONS:
            try:
                model = fastrnn.load_model(path, precision=precision)
            except fastrnn.UnsupportedLayerError:
                break
            pairs = [*_outputs(model, given)]
            errors = np.concatenate([np.ravel(np.abs(y - z) / np.abs(z).max()) for y, z in pairs])
            cells.append(f"{errors.max():.1e} ({np.sqrt(np.mean(errors**2)):.1e})")
            decided = [(decisions(y, z), decisions(z, z)) for y, z in pairs]
            changed.append(sum(int((mine != theirs).sum()) for mine, theirs in decided))
            count = sum(theirs.size for _, theirs in decided)
        else:
            told = f"{', '.join(map(str, changed))} of {count}" if count else ""
            yield f"| {case.parent.name} | {' | '.join(cells)} | {told} |"


def decisions(y: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """What a user would decide by outputs y: the likeliest class of a softmax, 0 or 1 of a sigmoid, else nothing.

    The expected outputs, (..., n) as y, tell which of these a model has.
    """
    if expected.min() < 0 or expected.max() > 1:
        return np.empty(0, int)
    if expected.shape[-1] > 1 and np.allclose(expected.sum(axis=-1), 1, atol=1e-4):
        return y.argmax(axis=-1)
    return (y > 0.5).astype(int)


def _outputs(
    model: fastrnn.Model, given: Mapping[str, np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each output of each run, and what it should be."""
    runs = sum(key.endswith("_in0") for key in given)
    for run in range(runs):
        inputs = [given[key] for key in sorted(given) if key.startswith(f"r{run}_in")]
        outputs = model.predict(inputs if len(inputs) > 1 else inputs[0])
        for number, y in enumerate(outputs if isinstance(outputs, list) else [outputs]):
            exact = f"r{run}_f64_{number}"
            yield y, given[exact if exact in given else f"r{run}_out{number}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=Path, metavar="DIRECTORY")
    options = parser.parse_args()
    if options.models:
        print("| model | float32 | bfloat16 | int8 | other decisions |\n|---|---|---|---|---|")
        print(*errors_of_models(options.models), sep="\n")
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    fastrnn.set_num_threads(options.threads)
    peer = None if OpenVinoBfloat16.missing() else Worker(OpenVinoBfloat16.name, options.threads)
    if peer is not None:
        print(peer.describe())
    print("| us a call | float32 | bfloat16 | int8 | OpenVINO bf16 (its time / ours) | errors |")
    print("|---|---|---|---|---|---|")
    for configuration in CONFIGURATIONS:
        print(measure(configuration, peer), flush=True)


if __name__ == "__main__":
    main()
