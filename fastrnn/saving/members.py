"""What a ``.keras`` archive starts with and holds."""

SIGNATURE = b"PK\x03\x04"
CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
