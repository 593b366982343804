"""The sunspot forecast: its record, its windows, and that it forecasts what Keras forecasts."""

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import keras
import numpy as np
import pytest

import fastrnn
from fastrnn import sunspots
from tests.clock import Clock

TRAIN = Path(__file__).parent.parent / "examples" / "sunspots" / "train.py"
MODEL = resources.files("fastrnn") / "data" / "sunspots.keras"


@pytest.fixture(scope="module")
def record():
    return sunspots.read_record()


def test_record_is_every_month_from_1749_to_1983(record):
    expected = np.arange("1749-01", "1984-01", dtype="datetime64[M]")
    np.testing.assert_array_equal(record.months, expected)
    assert record.sunspots.dtype == np.float32
    assert record.sunspots[0] == np.float32(58.0)
    assert record.sunspots[-1] == np.float32(33.4)


def test_scale_spans_0_to_1_and_unscale_undoes_it(record):
    scaled = record.scale()
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_allclose(record.unscale(scaled), record.sunspots, atol=1e-4)


def test_cut_makes_windows_that_do_not_overlap():
    months = np.arange("2000-01", "2000-09", dtype="datetime64[M]")
    part = sunspots.cut(months, np.arange(8, dtype=np.float32), time_steps=3)
    np.testing.assert_array_equal(part.inputs[..., 0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(part.targets, [3, 6])
    np.testing.assert_array_equal(part.months, months[[3, 6]])


def test_train_is_the_first_80_percent(record):
    train, test = sunspots.train_and_test(record)
    assert train.inputs.shape == (187, 12, 1)
    assert test.inputs.shape == (46, 12, 1)
    assert train.months[-1] == np.datetime64("1936-01")
    assert test.months[0] == np.datetime64("1938-01")
    scaled = record.scale()
    np.testing.assert_array_equal(test.inputs[0, :, 0], scaled[2256:2268])
    assert test.targets[0] == scaled[2268]


def test_rmse_is_the_root_of_the_mean_square_error():
    part = sunspots.Part(np.zeros(2), np.zeros((2, 1, 1)), np.array([0.0, 0.5], np.float32))
    assert part.rmse(np.array([0.3, 0.1], np.float32)) == pytest.approx(np.sqrt(0.125))


def test_forecasts_equal_those_of_keras(record):
    with resources.as_file(MODEL) as path:
        keras_model = keras.models.load_model(path)
    model = sunspots.load_model()
    for part in sunspots.train_and_test(record):
        expected = keras_model.predict(part.inputs, verbose=0)
        for forecast in (model.predict(part.inputs), model(part.inputs)):
            assert forecast.shape == expected.shape
            np.testing.assert_allclose(forecast, expected, rtol=0, atol=1e-6)


def test_shipped_model_was_trained(record):
    model = sunspots.load_model()
    train, test = sunspots.train_and_test(record)
    assert train.rmse(model.predict(train.inputs)[:, 0]) < 0.06
    assert test.rmse(model.predict(test.inputs)[:, 0]) < 0.09


def test_median_seconds_is_not_moved_by_slow_calls(monkeypatch):
    pauses, clock = iter([0.2, 0.05, 0.01]), Clock()
    monkeypatch.setattr(sunspots, "time", clock)

    def call():
        clock.sleep(next(pauses, 0.001))

    assert sunspots.median_seconds(call, budget=0.1) == pytest.approx(0.001)
    assert clock.now == pytest.approx(0.3, abs=0.002)


@pytest.mark.slow
def test_train_writes_a_model_that_runs(tmp_path):
    path = tmp_path / "retrained.keras"
    done = subprocess.run(
        [sys.executable, str(TRAIN), "--epochs", "1", "--output", str(path)],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "test RMSE: " in done.stdout
    _, test = sunspots.train_and_test(sunspots.read_record())
    expected = keras.models.load_model(path).predict(test.inputs, verbose=0)
    np.testing.assert_allclose(
        fastrnn.load_model(path).predict(test.inputs), expected, rtol=0, atol=1e-6
    )
