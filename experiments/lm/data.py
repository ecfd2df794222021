"""Texts as arrays of tokens, bytes or words, in parts to train, validate and test.

Without files there is the text that every Python brings along: the topics of its own
documentation, what `help('with')` prints. Many topics contain others, so a paragraph
counts once; else a twelfth of the validation text would be in the training text.
"""

import io
import zlib
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np

from experiments.lab.cli import UserError

PARTS = ('train', 'valid', 'test')
END_OF_LINE, UNKNOWN = '<eos>', '<unk>'  # as the Penn Treebank's users write them


class Text(NamedTuple):
    """A text, and what its tokens stand for."""

    source: str  # where it was found
    train: np.ndarray  # uint8 of bytes, int32 of words
    valid: np.ndarray
    test: np.ndarray | None
    vocabulary: tuple[bytes, ...]  # what each token prints


def load(data_dir: Path | None, kind: str) -> Text:
    """Loads `train.txt`, `valid.txt` and `test.txt`, or Python's documentation.

    Args:
      data_dir: the folder of the three files; None is the documentation, whose last
        tenth is to validate and which has nothing to test.
      kind: `bytes` or `words`. Words stand between spaces, each line ends with one
        of its own, and what the training text has not is one word too.

    Raises:
      UserError: if a file is missing, is empty or is no text.
    """
    if data_dir is None:
        source = "Python's documentation topics"
        parts = documentation()
    else:
        source = str(data_dir)
        parts = {name: read(data_dir, f'{name}.txt') for name in PARTS}
    if kind == 'bytes':
        arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
        vocabulary = tuple(bytes([byte]) for byte in range(256))
    else:
        arrays, vocabulary = numbered(parts, source)
    return Text(
        source, arrays['train'], arrays['valid'], arrays.get('test'), vocabulary
    )


def documentation() -> dict[str, bytes]:
    """Python's documentation topics by name, each paragraph once, cut nine to one."""
    paragraphs: dict[str, str] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split('\n\n'):
            # The same under another indentation is the same.
            paragraphs.setdefault(' '.join(paragraph.split()), paragraph)
    text = '\n\n'.join(paragraphs.values()).encode()
    cut = len(text) * 9 // 10
    return {'train': text[:cut], 'valid': text[cut:]}


def read(data_dir: Path, name: str) -> bytes:
    path = data_dir / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f'cannot read {path} ({error.strerror}): --data-dir is a folder with '
            'train.txt, valid.txt and test.txt'
        ) from error
    if not content.strip():
        raise UserError(f'{path} is empty: put a text there')
    return content


def numbered(
    parts: dict[str, bytes], source: str
) -> tuple[dict[str, np.ndarray], tuple[bytes, ...]]:
    """The words of each part as numbers, and what each number prints."""
    words = {
        name: split_words(part, f'{name} of {source}') for name, part in parts.items()
    }
    known = dict.fromkeys([*words['train'], UNKNOWN, END_OF_LINE])
    numbers = {word: number for number, word in enumerate(known)}
    arrays = {
        name: np.array([numbers.get(word, numbers[UNKNOWN]) for word in part], np.int32)
        for name, part in words.items()
    }
    printed = (b'\n' if word == END_OF_LINE else f'{word} '.encode() for word in known)
    return arrays, tuple(printed)


def split_words(content: bytes, where: str) -> list[str]:
    try:
        # The mark that some editors begin a file with is no part of a word.
        text = content.decode().removeprefix('\ufeff')
        # Lines of a file; str.splitlines ends them at form feeds too.
        lines = io.StringIO(text, newline=None).readlines()
    except UnicodeDecodeError as error:
        raise UserError(
            f'{where} is not UTF-8 (byte {error.start}): recode it, or take it as it '
            'is with --tokens bytes'
        ) from error
    return [word for line in lines for word in [*line.split(), END_OF_LINE]]


def checksum(text: Text) -> str:
    """Tells texts apart, so that a run goes on with its own."""
    crc = zlib.crc32(b''.join(text.vocabulary))
    for part in (text.train, text.valid, text.test):
        if part is not None:
            crc = zlib.crc32(part.data, crc)
    return f'{crc:08x}'


def printable(text: Text, tokens: np.ndarray) -> str:
    """What `tokens` stand for, without what a terminal would take for commands."""
    said = b''.join(text.vocabulary[token] for token in tokens).decode(errors='replace')
    return ''.join(c if c.isprintable() or c == '\n' else '?' for c in said)
