"""Writing files."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there either whole or not at all."""
    part = path.with_name(path.name + '.part')
    with part.open('w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
