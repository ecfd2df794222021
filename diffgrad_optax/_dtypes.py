"""The dtypes that arithmetic and storage use."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def at_least_float32(*arrays: Any) -> np.dtype[Any]:
    """The dtype that holds all inexact `arrays` exactly, and never less than float32.

    NumPy's promotion, one dtype at a time, knows every storage dtype (bfloat16 and
    the 8-bit floats too) and does not depend on `jax_numpy_dtype_promotion`.
    """
    return np.result_type(
        np.float32,
        *(
            np.promote_types(array.dtype, np.float32)
            for array in arrays
            if jnp.issubdtype(array.dtype, jnp.inexact)
        ),
    )
