"""Train the denoiser in Keras, on any of its backends, on made-up voices, and save it as a .keras file."""

import argparse
from pathlib import Path

import keras
import numpy as np
import sound

SECONDS = 4


def create(units: int) -> keras.Model:
    """From a spectrum, as features, to what each bin is to be multiplied by, one timestep after the other."""
    return keras.Sequential(
        [
            keras.Input((None, sound.BINS)),
            keras.layers.GRU(units, return_sequences=True),
            keras.layers.Dense(sound.BINS, activation="sigmoid"),
        ],
        name="denoise",
    )


def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, frames, bins) and the gains that leave the voice alone (Wiener's filter)."""
    inputs, gains = [], []
    for seed in range(count):
        clean, noisy = map(sound.spectra, sound.noisy_voice(SECONDS, seed))
        inputs.append(sound.features(noisy))
        voice, rest = np.abs(clean) ** 2, np.abs(noisy - clean) ** 2
        gains.append((voice / (voice + rest + 1e-12)).astype(np.float32))
    return np.array(inputs), np.array(gains)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("denoise.keras"))
    parser.add_argument("--voices", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()

    keras.utils.set_random_seed(1)
    model = create(32)
    model.compile(loss="mean_squared_error", optimizer=keras.optimizers.Adam(3e-3))
    model.fit(*examples(options.voices), epochs=options.epochs, batch_size=16, verbose=2)
    bare = type(model).from_config(model.get_config())
    bare.set_weights(model.get_weights())
    bare.save(options.output)


if __name__ == "__main__":
    main()
