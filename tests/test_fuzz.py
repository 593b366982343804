"""What fuzzing starts from, and what it found, without the fuzzer."""

from pathlib import Path

import pytest

from tests.fuzz import json_mutator, targets

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
INPUTS = sorted(CORPUS.glob("*/*"))

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_inputs(path):
    """Nothing but a documented exception comes of them, and seeds are good."""
    before = targets.outcomes.copy()
    targets.TARGETS[path.parent.name](path.read_bytes())
    refused = targets.outcomes["refused"] - before["refused"]
    if path.parent.name != "calls" and not path.name.startswith("finding"):
        assert not refused


def test_every_target_has_seeds():
    assert {path.parent.name for path in INPUTS} == set(targets.TARGETS)


def test_changes_to_json():
    """Most are JSON again, all are within the limit, and the same seed gives the same change."""
    data = (CORPUS / "architecture" / "keras2_files-nested").read_bytes()
    changed = {
        json_mutator.mutate(data, 65536, seed, lambda data, most: b"other") for seed in range(100)
    }
    assert len(changed) > 80
    assert json_mutator.mutate(data, 65536, 5, None) == json_mutator.mutate(data, 65536, 5, None)
    assert json_mutator.mutate(b"{", 65536, 0, lambda data, most: b"other") == b"other"
    assert max(map(len, changed)) <= 65536
