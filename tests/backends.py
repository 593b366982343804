"""Where Keras's backends disagree."""

import numpy as np


def as_on_tensorflow(output, mask, layer):
    """Correct what Keras gives on its NumPy backend to what TensorFlow and torch give.

    A masked step repeats the previous output. Where there is none, NumPy takes the initial state
    and the others zeros. And NumPy ignores zero_output_for_mask when it unrolls; then TensorFlow zeroes a sequence by
    the mask in the order of the input, also where it goes backwards.
    """
    if mask is None:
        return output
    counts = mask.reshape(mask.shape[:2]).astype(bool)
    by_input = layer.unroll and layer.zero_output_for_mask and layer.return_sequences
    if layer.go_backwards and not by_input:
        counts = counts[:, ::-1]
    blank = ~(counts if layer.zero_output_for_mask else np.logical_or.accumulate(counts, axis=1))
    if not layer.return_sequences:
        blank = blank[:, -1]
    return np.where(blank.reshape(*blank.shape, *[1] * (output.ndim - blank.ndim)), 0, output)
