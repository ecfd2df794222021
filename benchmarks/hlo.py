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
ARRAY = re.compile(r'\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]')


class Kernel(NamedTuple):
    """An instruction of the entry computation: a kernel, on a GPU."""

    name: str
    opcode: str
    read: int  # bytes of its operands
    written: int  # bytes of its results
    again: int  # of those read, what the kernel before it has read too


def kernels(text: str) -> list[Kernel]:
    """The instructions of a module's entry computation that move memory.

    Operands are counted whole, each as often as it is named.

    Raises:
      ValueError: if a line is not understood, or runs what is not counted here.
    """
    sizes: dict[str, int] = {}
    found = []
    before: set[str] = set()
    entry = text.split('\nENTRY ', 1)[1].split('\n}', 1)[0]
    for line in entry.splitlines()[1:]:
        match = INSTRUCTION.match(line)
        if match is None:
            raise ValueError(f'not an instruction of HLO: {line}')
        name, result, opcode, operands = match.groups()
        if NOT_ONE_KERNEL.fullmatch(opcode):
            raise ValueError(f'what {name} moves is not known: it is a {opcode}')
        sizes[name] = nbytes(result)
        if opcode not in FREE:
            operands = re.findall(r'%([^\s,]+)', operands)
            read = sum(sizes[operand] for operand in operands)
            again = sum(sizes[operand] for operand in before.intersection(operands))
            found.append(Kernel(name, opcode, read, sizes[name], again))
            before = set(operands)
    return found


def nbytes(shape: str) -> int:
    """Of an array, or of all of a tuple's, from what HLO calls it."""
    return sum(
        math.ceil((int(bits) if bits else 8) / 8)
        * math.prod(int(size) for size in sizes.split(',') if size)
        for _, bits, sizes in ARRAY.findall(shape)
    )


def moved(kernels: Iterable[Kernel]) -> int:
    """Bytes that they read and write."""
    return sum(kernel.read + kernel.written for kernel in kernels)
