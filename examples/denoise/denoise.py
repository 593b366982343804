"""Denoise a WAV file frame by frame, as a microphone would give it: ``python denoise.py noisy.wav clean.wav``.

Without files it makes up a noisy voice, and tells how much better it gets.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import sound

import fastrnn

MODEL = Path(__file__).with_name("denoise.keras")


class Denoiser:
    """Takes a frame of HOP samples and gives one, HOP samples later: what it holds is one stream and two frames."""

    def __init__(self, model: fastrnn.Model) -> None:
        self._stream = model.stream()
        self._before = np.zeros(sound.HOP)
        self._rest = np.zeros(sound.HOP)

    def process(self, frame: np.ndarray) -> np.ndarray:
        """Return the frame before this one, with less noise."""
        spectrum = np.fft.rfft(np.concatenate([self._before, frame]) * sound.WINDOW)
        spectrum *= self._stream.step(sound.features(spectrum))
        overlapping = np.fft.irfft(spectrum) * sound.WINDOW
        done = self._rest + overlapping[: sound.HOP]
        self._before, self._rest = frame, overlapping[sound.HOP :]
        return done


def denoise(model: fastrnn.Model, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples with less noise, and the seconds that each frame took."""
    denoiser = Denoiser(model)
    done, seconds = [], []
    for frame in sound.frames(samples):
        start = time.perf_counter()
        done.append(denoiser.process(frame))
        seconds.append(time.perf_counter() - start)
    return np.concatenate(done)[sound.HOP :], np.array(seconds)


def report(seconds: np.ndarray) -> list[str]:
    """The real-time factor and the latencies, as text."""
    length = sound.HOP / sound.RATE
    p50, p99, p999 = 1e6 * np.percentile(seconds, [50, 99, 99.9])
    return [
        f"{len(seconds)} frames of {1e3 * length:g} ms in {seconds.sum():.3f} s: "
        f"real-time factor {seconds.mean() / length:.5f}, {length / seconds.mean():.0f} times as fast as the sound",
        f"a frame takes {p50:.0f} us (p50), {p99:.0f} us (p99), {p999:.0f} us (p99.9), {1e6 * seconds.max():.0f} us "
        "at most",
    ]


def plot(path: Path, noisy: np.ndarray, clean: np.ndarray, seconds: np.ndarray) -> None:
    """Draw the sound before and after, and how long the frames took."""
    from matplotlib import pyplot as plt

    figure, (before, after, latency) = plt.subplots(3, figsize=(9, 7), layout="constrained")
    for axes, title, samples in ((before, "noisy", noisy), (after, "denoised", clean)):
        axes.specgram(
            samples, NFFT=2 * sound.HOP, Fs=sound.RATE, noverlap=sound.HOP, vmin=-120, vmax=-20
        )
        axes.set(title=title, xlabel="seconds", ylabel="Hz")
    shares = 100 * np.arange(1, len(seconds) + 1) / len(seconds)
    latency.plot(1e6 * np.sort(seconds), shares)
    latency.set(
        xscale="log", xlabel="microseconds a frame", ylabel="% of the frames", title="latency"
    )
    latency.axvline(1e6 * sound.HOP / sound.RATE, color="black", linestyle=":")
    latency.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input", type=Path, nargs="?", help="a WAV file, mono, 8 kHz, 16 bits")
    parser.add_argument("output", type=Path, nargs="?", default=Path("denoised.wav"))
    parser.add_argument("--seconds", type=float, default=20, help="of the voice that is made up")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="a picture of sound and latencies"
    )
    options = parser.parse_args()

    model = fastrnn.load_model(MODEL)
    clean = None
    if options.input is None:
        options.input = Path("noisy.wav")
        clean, noisy = sound.noisy_voice(options.seconds, seed=2**20)
        sound.write_wav(options.input, noisy)
    noisy = sound.read_wav(options.input)
    denoised, seconds = denoise(model, noisy)
    sound.write_wav(options.output, denoised)
    print(f"{options.input} -> {options.output}")
    print("\n".join(report(seconds)))
    if clean is not None:
        count = len(denoised)
        before, after = (sound.signal_to_noise(clean[:count], s[:count]) for s in (noisy, denoised))
        print(f"signal to noise: {before:.1f} dB before, {after:.1f} dB after")
    if options.plot is not None:
        plot(options.plot, noisy, denoised, seconds)
        print(f"drawn in {options.plot}")


if __name__ == "__main__":
    main()
