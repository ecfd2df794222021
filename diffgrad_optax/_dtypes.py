"""The dtypes that arithmetic and storage use."""

from typing import Any

import jax.numpy as jnp
import numpy as np


def at_least_float32(*arrays: Any) -> np.dtype[Any]:
    """The dtype that holds all inexact `arrays` exactly, and never less than float32.

    NumPy's promotion knows every storage dtype (bfloat16 and the 8-bit floats
    too) and, unlike JAX's, does not depend on `jax_numpy_dtype_promotion`.
    """
    dtypes = (array.dtype for array in arrays)
    return np.result_type(
        np.float32, *(dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact))
    )
