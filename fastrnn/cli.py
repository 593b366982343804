"""The ``fastrnn`` command.

Exit codes: 0 done, 1 the model was refused, 2 the command was misused or could not do its work
here (no such file, nowhere to write, matplotlib missing).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import fastrnn
from fastrnn import sunspots

OK, REFUSED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the command's name; those of the process when left out.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    SystemExit
        With code 2, when the arguments make no command; with 0 after ``--help`` or ``--version``.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (fastrnn.ModelFormatError, fastrnn.UnsupportedLayerError) as error:
        return _fail(REFUSED, error)
    except (OSError, ValueError) as error:
        return _fail(USAGE, error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastrnn", description="Run recurrent models trained in Keras, fast, on a CPU."
    )
    parser.add_argument("--version", action="version", version=f"fastrnn {fastrnn.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="forecast sunspots with the model that ships here")
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("sunspots.png"),
        metavar="PATH",
        help="the picture to write (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="tell what a saved model holds")
    info.add_argument(
        "model", type=Path, metavar="MODEL", help=".keras, .h5 or .json file, or SavedModel folder"
    )
    info.add_argument("--weights", type=Path, metavar="PATH", help="weights of a .json file")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=_info)

    explain = commands.add_parser("explain", help="tell what a call of a saved model runs, and how")
    explain.add_argument("model", type=Path, metavar="MODEL", help=".keras, .h5 or .json file")
    explain.add_argument("--weights", type=Path, metavar="PATH", help="weights of a .json file")
    explain.add_argument(
        "--shape",
        type=_shape,
        action="append",
        required=True,
        metavar="B,T,F",
        help="shape of an input with the batch; once for each input",
    )
    explain.add_argument("--json", action="store_true", help="print one JSON object")
    explain.set_defaults(run=_explain)

    config = commands.add_parser("config", help="tell how fastrnn runs on this machine")
    config.set_defaults(run=_config)
    return parser


def _demo(options: argparse.Namespace) -> int:
    record = sunspots.read_record()
    parts = sunspots.train_and_test(record)
    model = sunspots.load_model()
    forecasts = tuple(model.predict(part.inputs)[:, 0] for part in parts)

    unit = record.sunspots.max() - record.sunspots.min()
    for name, part, forecast in zip(("train", "test"), parts, forecasts, strict=True):
        rmse = part.rmse(forecast)
        print(
            f"{name}: {len(part.targets):3} sequences, "
            f"RMSE {rmse:.4f} on the 0..1 scale, {rmse * unit:.1f} sunspots"
        )
    train, _ = parts
    one, many = train.inputs[:1], train.inputs
    call = sunspots.median_seconds(lambda: model(one))
    batch = sunspots.median_seconds(lambda: model(many))
    print(f"one sequence:  {call * 1e6:.2f} microseconds a call")
    print(
        f"{len(many)} sequences: {batch * 1e6:.1f} microseconds a call, "
        f"{len(many) / batch:,.0f} sequences a second"
    )

    try:
        sunspots.draw(options.output, record, parts, forecasts)
    except ImportError:
        return _fail(USAGE, "the picture needs matplotlib: pip install 'fastrnn[demo]'")
    print(f"picture: {options.output}")
    return OK


def _info(options: argparse.Namespace) -> int:
    model = fastrnn.load_model(options.model, weights=options.weights)
    if options.json:
        print(json.dumps(_describe(model), indent=2))
    else:
        model.summary()
    return OK


def _shape(text: str) -> tuple[int, ...]:
    """A shape such as 32,100,8, or ValueError."""
    return tuple(int(size) for size in text.replace("x", ",").split(","))


def _explain(options: argparse.Namespace) -> int:
    model = fastrnn.load_model(options.model, weights=options.weights)
    shapes = options.shape
    explanation = fastrnn.explain(model, shapes[0] if len(shapes) == 1 else shapes)
    print(json.dumps(explanation.as_dict(), indent=2) if options.json else explanation)
    return OK


def _describe(model: fastrnn.Model) -> dict[str, object]:
    return {
        "name": model.name,
        "class": type(model).__name__,
        "dtype": model.dtype,
        "input_shape": model.input_shape,
        "output_shape": model.output_shape,
        "parameters": model.count_params(),
        "layers": [
            {
                "name": layer.name,
                "class": type(layer).__name__,
                "dtype": layer.dtype,
                "weights": [weight.shape for weight in layer.get_weights()],
                "parameters": layer.count_params(),
            }
            for layer in model.layers
        ],
    }


def _config(options: argparse.Namespace) -> int:
    fastrnn.show_config()
    return OK


def _fail(code: int, problem: object) -> int:
    print(f"fastrnn: {problem}", file=sys.stderr)
    return code
