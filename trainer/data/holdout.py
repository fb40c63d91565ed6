"""Which images are kept out of training, decided by a hash of their own key.

The decision looks at one key at a time, so an image stays on its side when others are added to the data.
"""

import numpy as np

from trainer.data.keyed_random import mix

_SALT = 0x6C69742D686F6C64


def held_out(keys: np.ndarray, fraction: float) -> np.ndarray:
    """Say which keys belong to the hold-out.

    Args:
        keys: uint64 [n], keys of images or of captions; equal keys are decided alike.
        fraction: expected share of distinct keys held out, 0 .. 1. Growing it only adds keys.

    Returns:
        bool [n].
    """
    return mix(_SALT, keys) < np.uint64(min(int(fraction * 2.0**64), (1 << 64) - 1))
