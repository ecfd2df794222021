"""experiments/lm: the text, and where each step's windows start."""

from pydoc_data.topics import topics

import numpy as np
import pytest

from experiments.lab.cli import UserError
from experiments.lm import data
from experiments.lm.batches import epoch_starts, steps_in, whole_text
from experiments.lm.data import Text


def folder(path, train, valid, test):
    for name, content in zip(data.PARTS, (train, valid, test), strict=True):
        (path / f'{name}.txt').write_bytes(content)
    return path


def test_the_documentation_is_every_paragraph_once_cut_nine_to_one():
    text = data.load(None, 'bytes')
    whole = bytes(text.train) + bytes(text.valid)
    paragraphs = whole.decode().split('\n\n')
    plain = [' '.join(paragraph.split()) for paragraph in paragraphs]
    assert len(set(plain)) == len(plain)
    assert set(plain) == {
        ' '.join(paragraph.split())
        for topic in topics.values()
        for paragraph in topic.split('\n\n')
    }
    assert len(text.train) == len(whole) * 9 // 10
    assert text.test is None


def test_next_to_nothing_of_the_validation_text_is_in_the_training_text():
    text = data.load(None, 'bytes')
    known = {bytes(text.train[i : i + 60]) for i in range(len(text.train) - 60)}
    places = range(0, len(text.valid) - 60, 7)
    seen = sum(bytes(text.valid[i : i + 60]) in known for i in places)
    assert seen / len(places) < 0.02  # 0.08 and more with every paragraph


def test_words_are_numbered_by_the_training_text_and_lines_end(tmp_path):
    place = folder(tmp_path, b' the cat \n the dog\n', b'a cat', b'the <unk> dog\n\n')
    text = data.load(place, 'words')
    assert text.vocabulary == (b'the ', b'cat ', b'\n', b'dog ', b'<unk> ')
    np.testing.assert_array_equal(text.train, [0, 1, 2, 0, 3, 2])
    np.testing.assert_array_equal(text.valid, [4, 1, 2])
    np.testing.assert_array_equal(text.test, [0, 4, 3, 2, 2])
    assert text.train.dtype == np.int32


def test_a_line_ends_where_a_file_has_it(tmp_path):
    text = 'a\r\nb\x0cb\x85b\u2028b\x1cb\n\nc'.encode()
    words = data.load(folder(tmp_path, text, b'a\n', b'a'), 'words')
    said = b''.join(words.vocabulary[token] for token in words.train)
    assert said == b'a \nb b b b b \n\nc \n'


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    marked = '\ufeffcat'.encode()
    text = data.load(folder(tmp_path, marked, b'the cat', marked), 'words')
    assert text.vocabulary[0] == b'cat '
    np.testing.assert_array_equal(text.test, text.train)
    with pytest.raises(UserError, match=r'is not UTF-8 \(byte 6\)'):
        data.load(folder(tmp_path, marked + b'\xff', b'cat', b'cat'), 'words')


def test_bytes_are_themselves(tmp_path):
    place = folder(tmp_path, b'\x00a\xff', b'ab', b'ba')
    text = data.load(place, 'bytes')
    assert [bytes(part) for part in text[1:4]] == [b'\x00a\xff', b'ab', b'ba']
    assert b''.join(text.vocabulary[token] for token in text.train) == b'\x00a\xff'


@pytest.mark.parametrize(
    ('parts', 'kind', 'said'),
    [
        ({}, 'bytes', 'cannot read .*train.txt .*--data-dir is a folder with'),
        ({'train': b'a'}, 'bytes', 'cannot read .*valid.txt'),
        ({'train': b' \n'}, 'bytes', 'train.txt is empty'),
        (
            {'train': b'ab\xff', 'valid': b'a', 'test': b'a'},
            'words',
            r'train of .* is not UTF-8 \(byte 2\)',
        ),
    ],
)
def test_what_is_no_text_is_refused_in_a_line(tmp_path, parts, kind, said):
    for name, content in parts.items():
        (tmp_path / f'{name}.txt').write_bytes(content)
    with pytest.raises(UserError, match=said) as refusal:
        data.load(tmp_path, kind)
    assert '\n' not in str(refusal.value)


def test_texts_that_differ_anywhere_have_checksums_that_do():
    a, b = np.uint8([1, 2, 3]), np.uint8([1, 2, 4])
    texts = [
        Text('', a, a, a, (b'x',)),
        Text('', b, a, a, (b'x',)),
        Text('', a, b, a, (b'x',)),
        Text('', a, a, b, (b'x',)),
        Text('', a, a, None, (b'x',)),
        Text('', a, a, a, (b'y',)),
    ]
    assert len({data.checksum(text) for text in texts}) == len(texts)


def test_a_sample_prints_nothing_that_a_terminal_obeys():
    vocabulary = tuple(bytes([byte]) for byte in range(256))
    text = Text('', np.uint8([]), np.uint8([]), None, vocabulary)
    said = data.printable(text, np.frombuffer('ä\n\x1b[2J\r'.encode() + b'\xff', 'u1'))
    assert said == 'ä\n?[2J?\N{REPLACEMENT CHARACTER}'


@pytest.mark.parametrize('carried', [False, True])
def test_an_epoch_asks_for_no_token_twice_and_stays_in_the_text(carried):
    kwargs = {'count': 103, 'batch': 3, 'length': 5, 'carried': carried}
    shifts = set()
    for epoch in range(20):
        starts = epoch_starts(7, epoch, **kwargs)
        assert starts.shape == (steps_in(103, 3, 5), 3) == (6, 3)
        asked = (starts[..., None] + np.arange(1, 6)).ravel()
        assert len(set(asked)) == len(asked)
        assert asked.min() >= 1
        assert asked.max() < 103
        shifts.add(int(starts.min() % 5))
        if carried:
            np.testing.assert_array_equal(np.diff(starts, axis=0), 5)
    assert shifts == set(range(5))


def test_every_epoch_and_every_seed_has_its_own_order():
    def order(seed, epoch):
        starts = epoch_starts(seed, epoch, count=103, batch=3, length=5, carried=False)
        return tuple(starts.ravel() - starts.min())

    assert order(0, 1) == order(0, 1)
    assert len({order(0, 1), order(0, 2), order(1, 1)}) == 3


@pytest.mark.parametrize(
    ('count', 'expected'), [(4, 0), (14, 0), (19, 0), (20, 1), (34, 1), (35, 2)]
)
def test_an_epoch_has_the_steps_that_every_shift_leaves_room_for(count, expected):
    assert steps_in(count, 3, 5) == expected


@pytest.mark.parametrize('count', [2, 6, 7, 100])
@pytest.mark.parametrize('batch', [1, 4])
def test_a_whole_text_is_asked_for_once_in_rows_that_go_on(count, batch):
    starts = whole_text(count, batch, 5)
    asked = (starts[..., None] + np.arange(1, 6)).ravel()
    np.testing.assert_array_equal(np.sort(asked[asked < count]), np.arange(1, count))
    np.testing.assert_array_equal(np.diff(starts, axis=0), 5)
