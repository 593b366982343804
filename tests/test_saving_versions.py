"""Files mean what they meant in the version of Keras that wrote them: `tests/data/make_version_files.py`."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn._nested import flatten
from fastrnn.saving import config, eras

ARCHIVE = Path(__file__).parent / "data" / "version_files.zip"

with zipfile.ZipFile(ARCHIVE) as _archive:
    FILES = sorted(name for name in _archive.namelist() if not name.endswith(".npz"))

MADE_UP_IN_CONFIGS = {
    "a gated layer that names no recurrent activation has hard_sigmoid",
    "a GRU that does not tell resets before the product",
}
"""What no version leaves unsaid any more; `test_saving_config.py` has both."""


def version_of(name: str) -> tuple[int, ...]:
    """Return the version of Keras that wrote a file of the archive."""
    return config.parse_version(name.split("/")[0])


def largest_error(folder: Path, name: str) -> float:
    """Return by how much of their scale the outputs of a file differ from those of the Keras that wrote it."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        path = folder / name.replace("/", "_")
        path.write_bytes(archive.read(name))
        stored = dict(np.load(io.BytesIO(archive.read(name.rsplit(".", 1)[0] + ".npz"))))
    model = fastrnn.load_model(path)
    inputs = [stored[f"in{i}"] for i in range(sum(key.startswith("in") for key in stored))]
    errors = []
    for call in range(2):
        outputs = flatten(model(inputs if len(inputs) > 1 else inputs[0]))
        assert len(outputs) == sum(key.startswith(f"out{call}_") for key in stored)
        for i, output in enumerate(outputs):
            wanted = stored[f"out{call}_{i}"]
            assert np.shape(output) == wanted.shape
            errors.append(np.abs(np.asarray(output) - wanted).max() / np.abs(wanted).max())
    return max(errors)


@pytest.mark.parametrize("name", FILES)
def test_files(name, tmp_path):
    assert largest_error(tmp_path, name) < 1e-5


@pytest.mark.parametrize("meaning", eras.MEANINGS, ids=lambda meaning: meaning.what)
def test_a_file_tells_each_meaning_apart(meaning, tmp_path, monkeypatch):
    if meaning.what in MADE_UP_IN_CONFIGS:
        pytest.skip("no version leaves it unsaid")
    monkeypatch.setattr(
        config, "MEANINGS", tuple(one for one in eras.MEANINGS if one is not meaning)
    )
    concerned = [name for name in FILES if meaning.holds_for(version_of(name))]
    assert any(largest_error(tmp_path, name) > 1e-3 for name in concerned)
    assert any(largest_error(tmp_path, name) < 1e-5 for name in concerned)
