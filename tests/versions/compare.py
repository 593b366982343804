"""Compare what fastrnn makes of random models with what the Keras that wrote them computed.

    python -m tests.versions.compare FOLDER...

reads what `generate.py` wrote. Each difference, and each file that is refused, is listed with the
layers of its model; the exit status is 1 if there are any. A file of which its own Keras makes another
model than the one that it saved, because something is missing in it, means that other one. Files that
their own Keras does not load are compared with the model that was saved, and their differences are
counted by themselves, as are those of models whose numbers overflow.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np

import fastrnn
from fastrnn._nested import flatten

TOLERANCE = 2e-5
"""Of the largest number of an output."""

OVERFLOWING = 1e30
"""Larger numbers are those of a model that overflows, of which Keras's backends make different ones."""

LOADED = ("same", "other numbers")
"""What a version that loads its own file makes of it."""


def load(path: Path) -> fastrnn.Model:
    """Load what `generate.py` saved: a model, or the weights that go with the architecture beside them."""
    if path.suffix == ".ckpt":
        return fastrnn.load_model(f"{path}.json", weights=path)
    return fastrnn.load_model(path)


def difference(path: Path, stored: dict[str, np.ndarray]) -> str | None:
    """Return what is wrong with a file, None if all is right."""
    own = path.suffix if f"{path.suffix}out0_0" in stored else ""
    try:
        model = load(path)
        inputs = [stored[f"in{i}"] for i in range(sum(name.startswith("in") for name in stored))]
        for call in range(2):
            outputs = flatten(model(inputs if len(inputs) > 1 else inputs[0]))
            expected = [
                stored[f"{own}out{call}_{i}"]
                for i in range(sum(name.startswith(f"{own}out{call}_") for name in stored))
            ]
            if len(outputs) != len(expected):
                return f"{len(outputs)} outputs instead of {len(expected)}"
            for i, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
                wrong = _difference(np.asarray(output), wanted)
                if wrong:
                    return f"call {call}, output {i}: {wrong}"
    except Exception as error:  # whatever it is, it is found
        return f"{type(error).__name__}: {error}"
    return None


def _difference(output: np.ndarray, wanted: np.ndarray) -> str | None:
    if output.shape != wanted.shape:
        return f"shape {output.shape} instead of {wanted.shape}"
    finite = np.isfinite(wanted)
    if not np.array_equal(finite, np.isfinite(output)):
        return "other numbers are finite"
    if not finite.any():
        return None
    scale = np.abs(wanted[finite]).max() or 1.0
    error = np.abs(output[finite].astype(float) - wanted[finite]).max() / scale
    return f"off by {error:.1e} of the scale" if error > TOLERANCE else None


def overflows(stored: dict[str, np.ndarray]) -> bool:
    """Whether Keras itself got numbers that nearly overflow, or infinite ones."""
    return any((np.abs(array) > OVERFLOWING).any() for array in stored.values())


def compare(folder: Path, verbose: bool = True) -> int:
    """Compare the models of a folder, print how many differ and return how many of them Keras itself loads."""
    models = differing = damaged = overflowing = 0
    versions = set()
    for line in (folder / "models.jsonl").read_text().splitlines():
        description = json.loads(line)
        versions.add(description["keras"])
        seed = description["seed"]
        with np.load(folder / f"{seed}.npz") as file:
            stored = dict(file)
        models += 1
        found = {
            extension: difference(folder / f"{seed}{extension}", stored)
            for extension in description["saved"]
        }
        wrong = {extension: what for extension, what in found.items() if what}
        if not wrong:
            continue
        if overflows(stored):
            overflowing += 1
        elif any(description["saved"][extension] in LOADED for extension in wrong):
            differing += 1
        else:
            damaged += 1
        if verbose:
            print(f"{folder.name} {seed}")
            for extension, what in wrong.items():
                print(f"  {extension}: {what[:300]}")
                print(f"    loaded by its own Keras: {description['saved'][extension]}")
            for layer in description["layers"]:
                print(f"      {layer}")
    print(
        f"Keras {', '.join(sorted(versions))}: {models} models compared, {differing} differ, "
        f"{damaged} more that Keras itself does not load, {overflowing} more that overflow"
    )
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--quiet", action="store_true", help="print counts only")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    differing = [compare(folder, not options.quiet) for folder in options.folders]
    return int(any(differing))


if __name__ == "__main__":
    sys.exit(main())
