"""What files start with, and what a ``.keras`` archive holds."""

SIGNATURE = b"PK\x03\x04"
LFS_POINTER = b"version https://git-lfs"
CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
ALL = (CONFIG, METADATA, WEIGHTS)
