"""Train the sunspot forecast in Keras, on any of its backends, and save it as a .keras file."""

import argparse
from pathlib import Path

import keras

from fastrnn import sunspots


def create_rnn(hidden_units: int, dense_units: int, input_shape: tuple[int, int]) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.SimpleRNN(hidden_units, activation="tanh"),
            keras.layers.Dense(dense_units, activation="tanh"),
        ],
        name="sunspots",
    )


def train(seed: int, epochs: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    part, _ = sunspots.train_and_test(sunspots.read_record())
    model = create_rnn(3, 1, (sunspots.TIME_STEPS, 1))
    model.compile(loss="mean_squared_error", optimizer="adam")
    model.fit(part.inputs, part.targets, epochs=epochs, batch_size=1, verbose=2)
    return model


def without_optimizer(model: keras.Model) -> keras.Model:
    bare = type(model).from_config(model.get_config())
    bare.set_weights(model.get_weights())
    return bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("sunspots.keras"))
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()

    model = train(arguments.seed, arguments.epochs)
    without_optimizer(model).save(arguments.output)

    for name, part in zip(
        ("train", "test"), sunspots.train_and_test(sunspots.read_record()), strict=True
    ):
        forecast = model.predict(part.inputs, verbose=0)[:, 0]
        print(f"{name} RMSE: {part.rmse(forecast):.3f}")


if __name__ == "__main__":
    main()
