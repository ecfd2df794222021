"""Pickles from strangers: arrays of integers are rebuilt, everything else is refused.

NumPy's own classes are not admitted either. The state of a pickled dtype is trusted
by NumPy, and can make it take the file's bytes for pointers.
"""

import pickle
from typing import Any, ClassVar

import numpy as np


def latin1(text: str, encoding: str) -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes an array's bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'text in encoding {encoding}')
    return text.encode('latin1')


class PickledType:
    """Stands in for a dtype: its state could call a file's bytes pointers."""

    def __init__(self, code: str | bytes, *_: Any):
        code = code.decode() if isinstance(code, bytes) else code
        if code not in ('u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'u8', 'i8'):
            raise pickle.UnpicklingError(f'array of {code}, not integers')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ('>', b'>'):
            self.dtype = self.dtype.newbyteorder('>')


class PickledArray:
    """Stands in for an array: holds its bytes only once NumPy has checked them."""

    def __init__(self, *_: Any):
        self.array = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.array = array_from(content, kind, shape, 'F' if fortran else 'C')

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


def array_from(content: Any, kind: PickledType, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order)


class ArrayUnpickler(pickle.Unpickler):
    """Rebuilds arrays of integers and plain containers; refuses every other name."""

    admitted: ClassVar[dict[tuple[str, str], Any]] = {
        ('numpy', 'ndarray'): PickledArray,
        ('numpy', 'dtype'): PickledType,
        ('numpy.core.multiarray', '_reconstruct'): PickledArray,
        ('numpy._core.multiarray', '_reconstruct'): PickledArray,
        ('numpy.core.numeric', '_frombuffer'): array_from,
        ('numpy._core.numeric', '_frombuffer'): array_from,
        ('_codecs', 'encode'): latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f'it asks for {module}.{name}, and only NumPy arrays are admitted'
            ) from None
