"""Sound for the denoiser: WAV files, frames and their spectra, and made-up voices to train and try it with."""

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

RATE = 8000
"""Samples a second."""

HOP = 64
"""Samples of a frame: 8 ms."""

WINDOW = np.sqrt(np.hanning(2 * HOP + 1)[:-1])
"""Of two frames; its squares, a frame apart, add up to one, so that what is not changed comes back as it was."""

BINS = HOP + 1


def read_wav(path: Path) -> np.ndarray:
    """Return the samples of a WAV file, mono, 8 kHz and 16 bits, between -1 and 1."""
    with wave.open(str(path), "rb") as file:
        form = file.getnchannels(), file.getframerate(), file.getsampwidth()
        if form != (1, RATE, 2):
            raise ValueError(f"{path}: expected one channel of {RATE} Hz and 2 bytes; got {form}")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write samples between -1 and 1 to a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        whole = np.clip(np.rint(samples * 2**15), -(2**15), 2**15 - 1)
        file.writeframes(whole.astype("<i2").tobytes())


def frames(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Frames of HOP samples, as a microphone gives them; what is left over at the end is dropped."""
    for start in range(0, len(samples) - HOP + 1, HOP):
        yield samples[start : start + HOP]


def features(spectrum: np.ndarray) -> np.ndarray:
    """What the model reads of spectra (..., BINS): about -1 for silence, 1 for full scale."""
    return (np.log10(np.abs(spectrum) ** 2 + 1e-6) / 4 + 0.5).astype(np.float32)


def spectra(samples: np.ndarray) -> np.ndarray:
    """The spectra (frames, BINS) of every frame together with the one before it."""
    padded = np.concatenate([np.zeros(HOP), samples[: len(samples) // HOP * HOP]])
    pairs = np.lib.stride_tricks.sliding_window_view(padded, 2 * HOP)[::HOP]
    return np.fft.rfft(pairs * WINDOW, axis=-1)


def voice(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Harmonic tones with gliding pitch, formants and pauses, somewhat like speech."""
    count = int(seconds * RATE)
    time = np.arange(count) / RATE
    samples = np.zeros(count)
    start = rng.uniform(0, 0.3)
    while start < seconds:
        length = rng.uniform(0.1, 0.5)
        inside = (time >= start) & (time < start + length)
        t = time[inside] - start
        if not len(t):
            break
        pitch = rng.uniform(90, 260) * (1 + rng.uniform(-0.3, 0.3) * t)
        phase = 2 * np.pi * np.cumsum(pitch) / RATE
        formants = rng.uniform([250, 800], [900, 2600])
        for harmonic in range(1, 24):
            at = harmonic * pitch.mean()
            loudness = sum(np.exp(-(((at - formant) / 200) ** 2)) for formant in formants)
            if at < RATE / 2 - 200:
                samples[inside] += (loudness + 0.02) * np.sin(harmonic * phase)
        samples[inside] *= np.sin(np.pi * t / length) ** 0.5
        start += length + rng.exponential(0.12)
    return 0.3 * samples / max(np.abs(samples).max(), 1e-9)


def noise(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a random colour, with a hum, of mean square one."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    spectrum *= np.maximum(np.fft.rfftfreq(count), 1e-3) ** -rng.uniform(0, 0.6)
    hum = np.sin(2 * np.pi * rng.choice([50, 60]) * np.arange(count) / RATE)
    colored = np.fft.irfft(spectrum, count)
    colored = colored / colored.std() + rng.uniform(0, 0.5) * hum
    return colored / np.sqrt(np.mean(colored**2))


def noisy_voice(seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A voice alone, and with noise, some 5 dB below it."""
    rng = np.random.default_rng(seed)
    clean = voice(seconds, rng)
    level = np.sqrt(np.mean(clean**2)) * 10 ** (-rng.uniform(2, 8) / 20)
    return clean, clean + level * noise(len(clean), rng)


def signal_to_noise(clean: np.ndarray, samples: np.ndarray) -> float:
    """How far what is not voice is below the voice, in dB."""
    return float(10 * np.log10(np.sum(clean**2) / np.sum((samples - clean) ** 2)))
