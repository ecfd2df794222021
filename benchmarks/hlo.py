"""What a compiled program launches, read from the text of its HLO."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

# Instructions that name memory and move none.
FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast')
# Instructions that run other computations, or one kernel in two parts.
NOT_ONE_KERNEL = re.compile(r'while|conditional|call|.*-start|.*-done')
INSTRUCTION = re.compile(r'\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)')
INDEX = re.compile(r', index=(\d+)')
ARRAY = re.compile(r'\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')


class Kernel(NamedTuple):
    """An instruction of the entry computation: a kernel, on a GPU."""

    name: str
    opcode: str
    operands: list[tuple[str, int]]  # arrays, and their bytes
    results: list[tuple[str, int]]

    @property
    def read(self) -> int:
        """Bytes of its operands."""
        return sum(size for _, size in self.operands)

    @property
    def written(self) -> int:
        """Bytes of its results."""
        return sum(size for _, size in self.results)


def kernels(text: str) -> list[Kernel]:
    """The instructions of a module's entry computation that move memory.

    Operands are counted whole, each as often as it is named.

    Raises:
      ValueError: if a line is not understood, or runs what is not counted here.
    """
    arrays: dict[str, list[tuple[str, int]]] = {}
    found = []
    entry = text.split('\nENTRY ', 1)[1].split('\n}', 1)[0]
    for line in entry.splitlines()[1:]:
        match = INSTRUCTION.match(line)
        if match is None:
            raise ValueError(f'not an instruction of HLO: {line}')
        name, result, opcode, arguments = match.groups()
        if NOT_ONE_KERNEL.fullmatch(opcode):
            raise ValueError(f'what {name} moves is not known: it is a {opcode}')
        operands = [
            array
            for argument in re.findall(r'%([^\s,]+)', arguments)
            for array in arrays[argument]
        ]
        if opcode == 'get-tuple-element':
            arrays[name] = [operands[int(INDEX.match(line, match.end())[1])]]
        elif opcode in ('bitcast', 'tuple'):
            arrays[name] = operands
        else:
            arrays[name] = [(f'{name}.{n}', x) for n, x in enumerate(sizes(result))]
        if opcode not in FREE:
            found.append(Kernel(name, opcode, operands, arrays[name]))
    return found


def sizes(shape: str) -> list[int]:
    """Bytes of an array, or of each in a tuple, from what HLO calls it."""
    return [
        math.ceil((int(bits) if bits else 8) / 8)
        * math.prod(int(size) for size in axes.split(',') if size)
        for _, bits, axes in ARRAY.findall(shape)
    ]


def moved(kernels: Iterable[Kernel]) -> int:
    """Bytes that they read and write."""
    return sum(kernel.read + kernel.written for kernel in kernels)


def cached(kernels: Iterable[Kernel], size: int) -> int:
    """Bytes that are read while a cache of `size` bytes holds them.

    It holds the arrays that were read and written last, whole.
    """
    held: dict[str, int] = {}
    hits = 0

    def touch(array: str, nbytes: int) -> int:
        hit = held.pop(array, 0)
        held[array] = nbytes
        while sum(held.values()) > size:
            held.pop(next(iter(held)))
        return hit

    for kernel in kernels:
        hits += sum(touch(*array) for array in kernel.operands)
        for array in kernel.results:
            touch(*array)
    return hits
