"""A cell is one file: examples/add_a_cell put into a copy of the package, built, and compared with NumPy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "add_a_cell"
CHECK = '''
import itertools
import numpy as np
from fastrnn import _core

def sigmoid(x): return 1 / (1 + np.exp(-x))

def oracle(x, mask, kernel, recurrent_kernel, bias, h):
    """The minimal gated unit in float64; a masked step keeps the state."""
    units, outputs = h.shape[1], []
    z = x @ kernel + bias
    for t in range(x.shape[1]):
        f = sigmoid(z[:, t, :units] + h @ recurrent_kernel[:, :units])
        candidate = np.tanh(z[:, t, units:] + (f * h) @ recurrent_kernel[:, units:])
        h = np.where(mask[:, t, None], (1 - f) * h + f * candidate, h)
        outputs.append(h)
    return np.stack(outputs, 1)

rng = np.random.default_rng(0)
shapes = list(itertools.product([1, 5, 64, 97], [3, 40], [2, 7, 64, 100], [False, True]))
for build in _core.BUILDS.values():
    for rows, features, units, masked in shapes:
        x = rng.normal(size=(rows, 9, features))
        mask = rng.random((rows, 9)) < (0.7 if masked else 2)
        mask[:, 0] = True
        kernel = rng.normal(0, features ** -0.5, (features, 2 * units))
        recurrent_kernel = rng.normal(0, units ** -0.5, (units, 2 * units))
        bias, h = rng.normal(size=2 * units), rng.normal(size=(rows, units))
        weights = [array.astype(build.dtype) for array in (kernel, recurrent_kernel, bias)]
        step = _core.Recurrent(
            build, "mgu", *weights, None, "tanh", "sigmoid",
            x=0, mask=3 if masked else None, y=1, initial=[2], return_sequences=True)
        inputs = [0, 2, 3] if masked else [0, 2]
        program = _core.Program(build, 4, [step], inputs, [1], {3})
        arrays = [x.astype(build.dtype), h.astype(build.dtype), *([mask] if masked else [])]
        error = np.abs(program.run(tuple(arrays)) - oracle(x, mask, kernel, recurrent_kernel, bias, h))
        assert error.max() < (1e-5 if build.dtype == np.float32 else 1e-12), (build, rows, features, units, masked)
print("mgu equals the oracle")
'''


@pytest.mark.skipif(
    "FASTRNN_TEST_BUILDS" not in os.environ, reason="builds the core: FASTRNN_TEST_BUILDS=1"
)
def test_a_cell_is_one_file(tmp_path):
    for part in ("fastrnn", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    for library in (tmp_path / "fastrnn").glob("*.so"):
        library.unlink()
    shutil.copy(EXAMPLE / "mgu.pxd", tmp_path / "fastrnn" / "kernels" / "cells")
    subprocess.run(["git", "apply", str(EXAMPLE / "registry.diff")], cwd=tmp_path, check=True)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "FASTRNN_BUILD": "base"}
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(build, cwd=tmp_path, env=environment, check=True, capture_output=True)
    checked = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert checked.stdout == "mgu equals the oracle\n", checked.stderr


def test_the_example_fits_the_registry(tmp_path):
    shutil.copytree(ROOT / "fastrnn" / "kernels", tmp_path / "fastrnn" / "kernels")
    subprocess.run(
        ["git", "apply", "--check", str(EXAMPLE / "registry.diff")], cwd=tmp_path, check=True
    )
