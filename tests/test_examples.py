"""The examples, run as their users run them."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
import websockets

import fastrnn

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parent.parent / "examples"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


# Denoise


def example(name, monkeypatch):
    """A module of the denoiser, which imports its neighbours as a script does."""
    monkeypatch.syspath_prepend(EXAMPLES / "denoise")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / "denoise" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_denoiser_makes_a_file_better_and_tells_how_fast(tmp_path):
    run = subprocess.run(
        [
            sys.executable,
            EXAMPLES / "denoise" / "denoise.py",
            "--seconds",
            "4",
            "--plot",
            "out.png",
        ],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "real-time factor 0.0" in run.stdout
    assert "p99.9" in run.stdout
    before, after = (float(word) for word in run.stdout.split() if _is_decibels(run.stdout, word))
    assert after > before + 3
    assert (tmp_path / "denoised.wav").stat().st_size > 60_000
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"


def _is_decibels(text, word):
    return f"{word} dB" in text


def test_frames_are_denoised_as_the_whole_sequence_is(monkeypatch):
    sound, denoiser = example("sound", monkeypatch), example("denoise", monkeypatch)
    model = fastrnn.load_model(denoiser.MODEL)
    _, noisy = sound.noisy_voice(1.0, 5)
    got, seconds = denoiser.denoise(model, noisy)
    spectra = sound.spectra(noisy)
    spectra = spectra * model(sound.features(spectra)[np.newaxis])[0]
    parts = np.fft.irfft(spectra) * sound.WINDOW
    expected = parts[:-1, sound.HOP :] + parts[1:, : sound.HOP]
    assert len(seconds) == len(noisy) // sound.HOP
    np.testing.assert_allclose(got, expected.ravel(), rtol=0, atol=1e-6)


def test_frames_that_nothing_changes_come_back(monkeypatch):
    denoiser = example("denoise", monkeypatch)

    class All:
        def stream(self):
            return self

        def step(self, x):
            return np.ones_like(x)

    noisy = np.random.default_rng(0).normal(size=1000)
    got, _ = denoiser.denoise(All(), noisy)
    np.testing.assert_allclose(got, noisy[: len(got)], rtol=0, atol=1e-12)


def test_wav_files_of_another_form_are_refused(tmp_path, monkeypatch):
    sound = example("sound", monkeypatch)
    samples = np.sin(np.arange(800) / 10)
    sound.write_wav(tmp_path / "a.wav", samples)
    np.testing.assert_allclose(sound.read_wav(tmp_path / "a.wav"), samples, rtol=0, atol=2**-15)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[24:28] = (44_100).to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(data)
    with pytest.raises(ValueError, match=r"8000 Hz.*44100"):
        sound.read_wav(tmp_path / "b.wav")


# Stream server

CONNECTIONS = 500
FEATURES = 4


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "model.keras"
    layers = [
        keras.layers.LSTM(16, return_sequences=True),
        keras.layers.GRU(8),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((None, FEATURES)), *layers])
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, 0.3, weight.shape) for weight in model.get_weights()])
    model.save(path)
    return path


@pytest.fixture
def serve(file):
    """Start a server, with options; returns its address."""
    running = []

    def start(*options):
        script = EXAMPLES / "stream_server" / "server.py"
        server = subprocess.Popen(
            [sys.executable, script, file, "--port", "0", *map(str, options)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(server)
        return server.stdout.readline().split()[-1]

    yield start
    for server in running:
        server.terminate()
        assert server.wait(300) is not None
        server.stdout.close()


def connect(address):
    return websockets.connect(
        f"ws://{address}/stream", open_timeout=600, ping_interval=None, compression=None
    )


def open_streams(address):
    with urllib.request.urlopen(f"http://{address}/status", timeout=600) as answer:
        return json.load(answer)["open"]


async def step(connection, x):
    await connection.send(x.astype("<f4").tobytes())
    return np.frombuffer(await connection.recv(), "<f4")


def test_every_connection_gets_its_own_answers(serve, file):
    """500 at once, steps in random order, a third dropping mid-way, half of those coming back to a new stream."""
    address = serve("--capacity", 2 * CONNECTIONS)
    model = fastrnn.load_model(file)
    answers = []

    async def client(number, everyone):
        rng = np.random.default_rng(number)
        for turn in range(2 if number % 6 == 0 else 1):
            x = rng.normal(size=(rng.integers(3, 9), FEATURES)).astype("float32")
            connection = await connect(address)
            if turn == 0:
                await everyone.wait()
            drops = number % 3 == 0 and turn == 0
            got = []
            for part in x[: len(x) // 2] if drops else x:
                await asyncio.sleep(rng.random() * 0.05)
                got.append(await step(connection, part))
            if drops:
                await connection.send(x[0].tobytes())  # its answer is never fetched
                connection.transport.abort()
            else:
                await connection.close()
            answers.append((x[: len(got)], np.array(got)))

    async def main():
        everyone = asyncio.Barrier(CONNECTIONS)
        await asyncio.gather(*(client(number, everyone) for number in range(CONNECTIONS)))
        for _ in range(10_000):
            left = await asyncio.to_thread(open_streams, address)
            if left == 0:
                break
            await asyncio.sleep(0.05)
        assert left == 0

    asyncio.run(main())
    assert len(answers) == CONNECTIONS + len(range(0, CONNECTIONS, 6))
    for x, got in answers:
        assert len(got) == len(x) > 0
        expected = [model(x[np.newaxis, : t + 1])[0] for t in range(len(x))]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_a_full_server_and_wrong_messages_close_one_connection_only(serve, file):
    address = serve("--capacity", 2)
    x = np.ones(FEATURES)

    async def closed_with(connection):
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await connection.recv()
        return closed.value.rcvd.code

    async def main():
        async with connect(address) as good, connect(address) as bad:
            first = await step(good, x)
            np.testing.assert_array_equal(await step(bad, x), first)
            async with connect(address) as third:
                assert await closed_with(third) == 1013
            await bad.send(b"123")
            assert await closed_with(bad) == 1003
            assert (await step(good, x)).shape == (3,)

    asyncio.run(main())
