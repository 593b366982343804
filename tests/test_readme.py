"""That what the README shows runs."""

import re
from pathlib import Path

import keras
import numpy as np

README = Path(__file__).parent.parent / "README.md"


def test_examples_run(tmp_path, monkeypatch, capsys):
    layers = [keras.Input((7, 3)), keras.layers.LSTM(4), keras.layers.Dense(1)]
    keras.Sequential(layers).save(tmp_path / "model.keras")
    monkeypatch.chdir(tmp_path)
    names = {}
    for example in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL):
        exec(example, names)
    assert names["y"].shape == (1000, 1)
    assert names["first"].shape == (1, 1)
    assert names["sequence"].shape == (2, 6, 4)
    assert names["h"].shape == names["c"].shape == (2, 4)
    assert names["y_t"].shape == (1,)
    assert names["outputs"].shape == (2, 1)
    assert names["both"](np.ones((2, 5, 3))).shape == (2, 2)
    assert "LSTM" in capsys.readouterr().out
