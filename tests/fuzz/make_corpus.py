"""Write the corpus that fuzzing starts from, of files of the other tests: python -m tests.fuzz.make_corpus"""

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np

from fastrnn.snapshots import MAGIC, pack
from tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
MOST_BYTES = 12_000


def put(target: str, name: str, data: bytes) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def architectures() -> dict[str, bytes]:
    """One JSON for every set of layers among the files."""
    found: dict[str, bytes] = {}
    for bundle in sorted(DATA.glob("*.zip")):
        with zipfile.ZipFile(bundle) as files:
            for name in files.namelist():
                described = architecture_in(files.read(name), name)
                if described is None or len(described) > MOST_BYTES:
                    continue
                key = f"{bundle.stem}-{Path(name).stem}"
                found.setdefault(key, described)
    return found


def architecture_in(content: bytes, name: str) -> bytes | None:
    if name.endswith(".keras"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            config = json.loads(archive.read("config.json"))
            version = json.loads(archive.read("metadata.json")).get("keras_version")
    elif name.endswith(".h5"):
        with h5py.File(io.BytesIO(content)) as file:
            if "model_config" not in file.attrs:
                return None
            config = json.loads(file.attrs["model_config"])
            version = file.attrs.get("keras_version")
            version = version.decode() if isinstance(version, bytes) else version
    else:
        return None
    return json.dumps({**config, "keras_version": version}).encode()


def weights() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for i, shape in enumerate([(2, 12), (3, 12), (12,)]):
            file[f"layers/lstm/cell/vars/{i}"] = np.ones(shape, np.float32)
        file["layers/dense/vars/0"] = np.ones((3, 2), np.float32)
        file["layers/dense/vars/1"] = np.ones(2, np.float32)
    return stream.getvalue()


def main() -> None:
    for name, described in architectures().items():
        put("architecture", name, described)
    put("weights", "lstm.weights.h5", weights())
    with zipfile.ZipFile(DATA / "keras2_files.zip") as files:
        put("hdf5", "keras2.h5", files.read("encoder_decoder.h5"))
        put("archive", "keras2.keras", files.read("encoder_decoder.keras"))
    with zipfile.ZipFile(DATA / "keras1_files.zip") as files:
        put("hdf5", "keras1.h5", files.read("1.0.8/convolutions.h5"))
    states = {"lstm/h": np.ones((2, 3), np.float32), "lstm/c": np.ones((2, 3), np.float32)}
    whole = pack(2, states, {})[len(MAGIC) :]
    put("snapshot", "two", whole[8:])
    put("snapshot", "with_length", b"!" + whole[:4] + whole[8:])
    for i in range(40):
        put("calls", f"{i}", bytes([i, 1, i, 1, 5, *range(i % 7)]))
    assert set(TARGETS) == {folder.name for folder in (HERE / "corpus").iterdir()}


if __name__ == "__main__":
    main()
