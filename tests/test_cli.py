"""The command: what it prints, writes and returns."""

import json
import subprocess
import sys

import keras
import pytest

import fastrnn
from fastrnn import cli

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def saved_model(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((5, 2)),
            keras.layers.GRU(3, name="memory"),
            keras.layers.Dense(1, name="answer"),
        ],
        name="small",
    )
    path = tmp_path / "small.keras"
    model.save(path)
    return path


@pytest.fixture
def quick_timing(monkeypatch):
    monkeypatch.setattr(cli.sunspots, "median_seconds", lambda call: 1e-6)


@pytest.mark.slow
def test_demo_prints_errors_and_speed_and_draws(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert cli.main(["demo", "--output", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "train: 187 sequences, RMSE 0.05" in out
    assert "test:  46 sequences, RMSE 0.08" in out
    assert "microseconds a call" in out
    assert "sequences a second" in out
    assert picture.read_bytes().startswith(PNG_SIGNATURE)
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.slow
def test_demo_writes_sunspots_png_here_by_default(tmp_path, monkeypatch, quick_timing):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo"]) == 0
    assert (tmp_path / "sunspots.png").read_bytes().startswith(PNG_SIGNATURE)


def test_demo_replaces_an_older_picture(tmp_path, quick_timing):
    picture = tmp_path / "picture.png"
    picture.write_text("old")
    assert cli.main(["demo", "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(PNG_SIGNATURE)


def test_demo_picture_has_actual_and_predicted_values_and_a_red_border(tmp_path, quick_timing):
    picture = tmp_path / "picture.svg"
    assert cli.main(["demo", "--output", str(picture)]) == 0
    drawing = picture.read_text()
    assert drawing.rstrip().endswith("</svg>")
    assert "#ff0000" in drawing


def test_demo_without_matplotlib_says_what_to_install(tmp_path, monkeypatch, capsys, quick_timing):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["demo", "--output", str(tmp_path / "picture.png")]) == 2
    captured = capsys.readouterr()
    assert "RMSE" in captured.out
    assert "pip install 'fastrnn[demo]'" in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["missing/picture.png", "picture.nonsense"])
def test_demo_with_an_impossible_output_leaves_nothing(tmp_path, capsys, quick_timing, output):
    assert cli.main(["demo", "--output", str(tmp_path / output)]) == 2
    assert capsys.readouterr().err.startswith("fastrnn: ")
    assert list(tmp_path.iterdir()) == []


def test_info_prints_the_summary(saved_model, capsys):
    assert cli.main(["info", str(saved_model)]) == 0
    out = capsys.readouterr().out
    assert "memory" in out
    assert "GRU" in out


def test_info_as_json(saved_model, capsys):
    assert cli.main(["info", str(saved_model), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["name"] == "small"
    assert described["input_shape"] == [None, 5, 2]
    assert described["output_shape"] == [None, 1]
    parameters = {layer["name"]: layer["parameters"] for layer in described["layers"]}
    assert parameters == {"memory": 63, "answer": 4}
    assert described["parameters"] == 67


def test_info_of_an_architecture_with_its_weights(saved_model, tmp_path, capsys):
    model = keras.models.load_model(saved_model)
    architecture, weights = tmp_path / "small.json", tmp_path / "small.weights.h5"
    architecture.write_text(model.to_json())
    model.save_weights(weights)
    command = ["info", str(architecture), "--weights", str(weights), "--json"]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 67


def test_info_refuses_a_foreign_file(tmp_path, capsys):
    path = tmp_path / "foreign.keras"
    path.write_bytes(b"no model")
    assert cli.main(["info", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastrnn: ")


def test_info_refuses_an_unknown_layer(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Discretization([0.0, 1.0])])
    path = tmp_path / "unknown.keras"
    model.save(path)
    assert cli.main(["info", str(path)]) == 1
    assert "Discretization" in capsys.readouterr().err


def test_info_of_a_missing_file(tmp_path, capsys):
    assert cli.main(["info", str(tmp_path / "missing.keras")]) == 2
    assert "missing.keras" in capsys.readouterr().err


def test_config_tells_the_instruction_set(capsys):
    assert cli.main(["config"]) == 0
    assert fastrnn.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["info"], ["demo", "--nonsense"]])
def test_misuse_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: fastrnn" in capsys.readouterr().err


def test_module_runs_as_the_command():
    command = [sys.executable, "-m", "fastrnn", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"fastrnn {fastrnn.__version__}\n"
