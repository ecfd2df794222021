"""experiments/cifar/data: digits, CIFAR in its eight forms, and all that is refused."""

import codecs
import contextlib
import copyreg
import functools
import gc
import gzip
import hashlib
import http.server
import io
import logging
import os
import pickle
import pickletools
import subprocess
import sys
import tarfile
import threading
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import pooch
import pytest
import requests

from experiments.cifar import data
from experiments.cifar.data import CIFAR
from experiments.lab.cli import UserError

FORMS = [
    (name, layout, packed)
    for name in ('cifar10', 'cifar100')
    for layout in ('python', 'binary')
    for packed in (False, True)
]
FOLDERS = {
    ('cifar10', 'python'): 'cifar-10-batches-py',
    ('cifar10', 'binary'): 'cifar-10-batches-bin',
    ('cifar100', 'python'): 'cifar-100-python',
    ('cifar100', 'binary'): 'cifar-100-binary',
}
ARCHIVES = {
    ('cifar10', 'python'): 'cifar-10-python.tar.gz',
    ('cifar10', 'binary'): 'cifar-10-binary.tar.gz',
    ('cifar100', 'python'): 'cifar-100-python.tar.gz',
    ('cifar100', 'binary'): 'cifar-100-binary.tar.gz',
}
REMEDIES = ('fetch it again', 'name the folder', 'name that with --data-dir')


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch):
    """50 and 10 images, and nothing is asked of the real server."""
    monkeypatch.setattr(data, 'TRAIN_COUNT', 50)
    monkeypatch.setattr(data, 'TEST_COUNT', 10)
    monkeypatch.setattr(data, 'HOME', 'http://127.0.0.1:9/')
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')


@functools.cache
def batches(name):
    """Each file's pixels as published (all red, all green, all blue) and labels."""
    rng = np.random.default_rng(0)
    if name == 'cifar10':
        counts = {f'data_batch_{i}': 10 for i in range(1, 6)} | {'test_batch': 10}
        top = 10
    else:
        counts, top = {'train': 50, 'test': 10}, 100
    files = {}
    for file, count in counts.items():
        labels = rng.integers(0, top, count)
        labels[:2] = 0, top - 1
        pixels = rng.integers(0, 256, (count, 3072)).astype(np.uint8)
        files[file] = (pixels, labels.tolist())
    return files


def expected(name, test):
    """The images by the published rule: byte 1024 c + 32 y + x is channel c at y, x."""
    chosen = [v for k, v in batches(name).items() if k.startswith('test') == test]
    pixels = np.concatenate([pixels for pixels, _ in chosen])
    planes = [pixels[:, 1024 * c : 1024 * (c + 1)] for c in range(3)]
    images = np.stack(planes, axis=-1).reshape(-1, 32, 32, 3)
    return images, np.array([label for _, labels in chosen for label in labels])


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote: its text was bytes, its NumPy had numpy.core."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        text = text.encode('latin1') if isinstance(text, str) else text
        if len(text) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text)
        else:
            self.write(pickle.BINSTRING + len(text).to_bytes(4, 'little') + text)

    dispatch[bytes] = dispatch[str] = save_string

    def save_bool(self, value):
        # Its NumPy said align=0 and copy=1.
        self.save_long(int(value))

    dispatch[bool] = save_bool

    def save_global(self, obj, name=None):
        if obj is RECONSTRUCT:
            self.write(b'cnumpy.core.multiarray\n_reconstruct\n')
        else:
            super().save_global(obj, name)

    dispatch[type] = save_global


RECONSTRUCT = np.empty(0).__reduce__()[0]


def python2_pickle(batch):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(batch)
    return file.getvalue()


def batch_of(name, file, labels=None):
    """The dictionary of a Python batch, with the entries that are not read."""
    pixels, own = batches(name)[file]
    labels = own if labels is None else labels
    batch = {
        'data': pixels,
        'filenames': [f'{i}.png' for i in range(len(pixels))],
        'batch_label': f'one of {name}',
    }
    if name == 'cifar10':
        return batch | {'labels': labels}
    return batch | {
        'coarse_labels': [(label + 1) % 20 for label in own],
        'fine_labels': labels,
    }


def contents(name, layout, dump=python2_pickle):
    """The bytes of each file of one form."""
    files = {}
    for file, (pixels, labels) in batches(name).items():
        if layout == 'python':
            files[file] = dump(batch_of(name, file))
            continue
        records = []
        for image, label in zip(pixels, labels, strict=True):
            coarse = [(label + 1) % 20] if name == 'cifar100' else []
            records.append(bytes([*coarse, label]) + image.tobytes())
        files[f'{file}.bin'] = b''.join(records)
    return files


def tar(members, compresslevel=1):
    """A `.tar.gz` of `members`: bytes, or the target of a symbolic link."""
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode='w:gz', compresslevel=compresslevel
    ) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def packed_bytes(name, layout, files=None, **kwargs):
    folder = FOLDERS[name, layout]
    files = contents(name, layout) if files is None else files
    return tar({f'{folder}/{file}': b for file, b in files.items()}, **kwargs)


def write(directory, name, layout='python', packed=False, files=None):
    """Writes one form into `directory`, and returns its folder or archive."""
    directory.mkdir(parents=True, exist_ok=True)
    files = contents(name, layout) if files is None else files
    if packed:
        place = directory / ARCHIVES[name, layout]
        place.write_bytes(packed_bytes(name, layout, files))
        return place
    place = directory / FOLDERS[name, layout]
    place.mkdir()
    for file, content in files.items():
        (place / file).write_bytes(content)
    return place


def tree(directory):
    """Everything under `directory`, with its bytes."""
    if directory.is_file():
        return directory.read_bytes()
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in directory.rglob('*')
    }


def refusal(name, directory, *said):
    """Loads, and returns the one line of the refusal, which says all of `said`."""
    before = tree(directory)
    with pytest.raises(UserError) as caught:
        data.load(name, directory)
    line = str(caught.value)
    assert tree(directory) == before
    assert line.isprintable(), repr(line)
    assert any(remedy in line for remedy in REMEDIES), line
    for words in said:
        assert str(words) in line
    return line


def assert_loaded(loaded, name):
    for split, test in ((loaded.train, False), (loaded.test, True)):
        images, labels = expected(name, test)
        assert split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        np.testing.assert_array_equal(split.images, images)
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.labels, labels)


# Digits.


def test_digits_are_split_four_to_one_without_a_shared_image():
    digits = data.load('digits', None)
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.test.images.shape == (360, 8, 8, 1)
    assert digits.train.labels.shape == (1437,)
    assert digits.test.labels.shape == (360,)
    train = {image.tobytes() for image in digits.train.images}
    test = {image.tobytes() for image in digits.test.images}
    # No two of the 1,797 are equal, so sets count them.
    assert (len(train), len(test), len(train & test)) == (1437, 360, 0)


def test_digits_have_each_class_in_the_same_share():
    digits = data.load('digits', None)
    train, test = np.bincount(digits.train.labels), np.bincount(digits.test.labels)
    assert len(train) == len(test) == digits.classes == 10
    np.testing.assert_array_less(np.abs(test - (train + test) * 360 / 1797), 1)


def test_digits_use_the_whole_range_of_uint8():
    for split in data.load('digits', None)[1:3]:
        assert split.images.dtype == np.uint8
        assert (split.images.min(), split.images.max()) == (0, 255)
        # 17 shades of grey stay 17.
        assert len(np.unique(split.images)) == 17
        assert split.labels.dtype == np.int32


def test_digits_are_the_same_every_time():
    np.random.seed(1)
    first = data.load('digits', None)
    np.random.seed(2)
    second = data.load('digits', None)
    for one, two in zip(first[1:3], second[1:3], strict=True):
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.labels, two.labels)


def test_digits_keep_each_label_with_its_image():
    raw = data.sklearn.datasets.load_digits()
    label_of = {
        np.round(image * 255 / 16).astype(np.uint8).tobytes(): label
        for image, label in zip(raw.images, raw.target, strict=True)
    }
    for split in data.load('digits', None)[1:3]:
        for image, label in zip(split.images, split.labels, strict=True):
            assert label_of[image.tobytes()] == label


def test_digits_are_not_mirrored_and_cifar_is(tmp_path):
    digits = data.load('digits', None)
    assert (digits.classes, digits.flip, digits.padding) == (10, False, 1)
    write(tmp_path, 'cifar100')
    cifar = data.load('cifar100', tmp_path)
    assert (cifar.classes, cifar.flip, cifar.padding) == (100, True, 4)


# What is read.


@pytest.mark.parametrize(('name', 'layout', 'packed'), FORMS)
def test_all_eight_forms_give_the_same_images_and_labels(
    tmp_path, name, layout, packed
):
    place = write(tmp_path, name, layout, packed)
    before = tree(tmp_path)
    loaded = data.load(name, tmp_path)
    assert_loaded(loaded, name)
    assert loaded.source == str(place)
    assert loaded.classes == {'cifar10': 10, 'cifar100': 100}[name]
    assert tree(tmp_path) == before


@pytest.mark.parametrize('layout', ['python', 'binary'])
@pytest.mark.parametrize('name', list(CIFAR))
def test_the_folder_itself_may_be_named_whatever_it_is_called(tmp_path, name, layout):
    folder = write(tmp_path, name, layout).rename(tmp_path / 'my pictures')
    assert_loaded(data.load(name, folder), name)


def test_the_second_label_byte_of_cifar100_is_the_fine_label(tmp_path):
    image = bytes(3072)
    record = bytes([19, 99]) + image
    write(
        tmp_path,
        'cifar100',
        'binary',
        files={'train.bin': record * 50, 'test.bin': record * 10},
    )
    loaded = data.load('cifar100', tmp_path)
    assert set(loaded.train.labels) == set(loaded.test.labels) == {99}


def test_an_archive_whose_members_start_with_a_dot_is_read(tmp_path):
    files = contents('cifar10', 'python')
    members = {f'./cifar-10-batches-py/{file}': b for file, b in files.items()}
    (tmp_path / 'cifar-10-python.tar.gz').write_bytes(tar(members))
    assert_loaded(data.load('cifar10', tmp_path), 'cifar10')


@pytest.mark.parametrize('name', list(CIFAR))
@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('keys', [str, bytes])
@pytest.mark.parametrize('labels', [list, np.array, np.uint8])
def test_pickles_that_python_3_wrote_are_read(tmp_path, name, protocol, keys, labels):
    files = {}
    for file, (_, own) in batches(name).items():
        batch = batch_of(name, file, labels(own))
        if keys is bytes:
            batch = {key.encode(): value for key, value in batch.items()}
        files[file] = pickle.dumps(batch, protocol)
    write(tmp_path, name, files=files)
    assert_loaded(data.load(name, tmp_path), name)


@pytest.mark.parametrize('protocol', [2, 5])
def test_the_order_in_memory_and_of_bytes_changes_no_value(tmp_path, protocol):
    files = {}
    for file, (pixels, own) in batches('cifar10').items():
        batch = batch_of('cifar10', file, np.array(own, '>i4'))
        batch['data'] = np.asfortranarray(pixels)
        files[file] = pickle.dumps(batch, protocol)
    write(tmp_path, 'cifar10', files=files)
    assert_loaded(data.load('cifar10', tmp_path), 'cifar10')


def test_the_python_2_pickles_of_these_tests_are_protocol_2_with_bytes_alone():
    written = python2_pickle(batch_of('cifar10', 'test_batch'))
    assert written[:2] == b'\x80\x02'
    opcodes = {opcode.name for opcode, _, _ in pickletools.genops(written)}
    assert {'SHORT_BINSTRING', 'BINSTRING'} <= opcodes
    assert not {'BINUNICODE', 'SHORT_BINBYTES', 'NEWTRUE', 'NEWFALSE'} & opcodes
    assert b'numpy._core' not in written
    batch = pickle.loads(written, encoding='bytes')
    assert set(batch) == {b'data', b'labels', b'filenames', b'batch_label'}


def test_a_folder_called_train_does_not_hide_the_archive_beside_it(tmp_path):
    archive = write(tmp_path, 'cifar100', packed=True)
    (tmp_path / 'train').mkdir()
    loaded = data.load('cifar100', tmp_path)
    assert loaded.source == str(archive)


def test_other_files_beside_the_data_are_ignored(tmp_path):
    folder = write(tmp_path, 'cifar10')
    (tmp_path / '.DS_Store').write_bytes(b'\0')
    (folder / 'batches.meta').write_bytes(b'no pickle')
    assert_loaded(data.load('cifar10', tmp_path), 'cifar10')


# What is refused, in one line that names the file.


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('layout', ['python', 'binary'])
@pytest.mark.parametrize('missing', ['data_batch_1', 'data_batch_3', 'test_batch'])
def test_a_missing_file_is_named(tmp_path, layout, packed, missing):
    files = contents('cifar10', layout)
    missing += '.bin' if layout == 'binary' else ''
    del files[missing]
    write(tmp_path, 'cifar10', layout, packed, files)
    refusal('cifar10', tmp_path, missing)


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', list(CIFAR))
@pytest.mark.parametrize('kept', [0, 1, 3072, 10_000, -1])
def test_a_truncated_binary_file_is_refused(tmp_path, name, packed, kept):
    files = contents(name, 'binary')
    file = list(files)[-2]
    files[file] = files[file][:kept]
    place = write(tmp_path, name, 'binary', packed, files)
    refusal(name, tmp_path, f'{file} in {place}')


@pytest.mark.parametrize('packed', [False, True])
def test_a_truncated_pickle_is_refused(tmp_path, packed):
    files = contents('cifar10', 'python')
    files['data_batch_2'] = files['data_batch_2'][:20_000]
    place = write(tmp_path, 'cifar10', 'python', packed, files)
    refusal('cifar10', tmp_path, f'data_batch_2 in {place}')


@pytest.mark.parametrize(
    'dump',
    [python2_pickle, *(functools.partial(pickle.dumps, protocol=p) for p in (2, 5))],
)
def test_a_pickle_is_refused_wherever_it_is_cut(dump):
    whole = dump(batch_of('cifar10', 'test_batch'))
    cuts = [
        *range(300),
        *range(300, len(whole), 997),
        *range(len(whole) - 99, len(whole)),
    ]
    for cut in cuts:
        with pytest.raises(UserError, match='test_batch in here is truncated'):
            data.decode_pickle(whole[:cut], CIFAR['cifar10'], 'test_batch in here')


@pytest.mark.parametrize('layout', ['python', 'binary'])
@pytest.mark.parametrize('cut', [0, 1, 9, 15, 600, 0.3, 0.7, 0.97, -9, -1])
def test_a_truncated_archive_is_refused_and_named(tmp_path, layout, cut):
    whole = packed_bytes('cifar100', layout)
    archive = tmp_path / ARCHIVES['cifar100', layout]
    kept = int(cut * len(whole)) if isinstance(cut, float) else cut
    archive.write_bytes(whole[:kept])
    refusal('cifar100', tmp_path, archive, 'delete it and fetch it again')


@pytest.mark.parametrize('cut', [0, 100, 512, 100_000])
def test_a_tar_cut_before_it_was_compressed_is_refused(tmp_path, cut):
    whole = gzip.decompress(packed_bytes('cifar10', 'binary'))
    archive = tmp_path / ARCHIVES['cifar10', 'binary']
    archive.write_bytes(gzip.compress(whole[:cut], 1))
    refusal('cifar10', tmp_path, archive)


@pytest.mark.parametrize(
    'content', [b'<html>404 Not Found</html>' * 99, bytes(99), tar({})[10:]]
)
def test_a_file_that_is_no_gzip_is_refused(tmp_path, content):
    archive = tmp_path / ARCHIVES['cifar10', 'python']
    archive.write_bytes(content)
    refusal('cifar10', tmp_path, archive)


def test_a_gzip_that_is_no_tar_is_refused(tmp_path):
    archive = tmp_path / ARCHIVES['cifar10', 'python']
    archive.write_bytes(gzip.compress(os.urandom(5000)))
    refusal('cifar10', tmp_path, archive)


def test_an_archive_with_one_changed_pixel_fails_its_checksum(tmp_path):
    # Uncompressed, so that nothing but the checksum at the end can tell.
    whole = bytearray(packed_bytes('cifar10', 'binary', compresslevel=0))
    pixels = batches('cifar10')['data_batch_2'][0][3].tobytes()
    whole[whole.index(pixels[100:200])] ^= 1
    archive = tmp_path / ARCHIVES['cifar10', 'binary']
    archive.write_bytes(whole)
    refusal('cifar10', tmp_path, archive)


def test_an_archive_whose_member_claims_an_absurd_size_is_refused(tmp_path):
    info = tarfile.TarInfo('cifar-10-batches-py/data_batch_1')
    info.size = 2**80
    header = info.tobuf(tarfile.GNU_FORMAT)
    archive = tmp_path / ARCHIVES['cifar10', 'python']
    archive.write_bytes(gzip.compress(header + bytes(5000)))
    refusal('cifar10', tmp_path, archive)


@pytest.mark.parametrize('target', ['/etc/passwd', '../../elsewhere', 'data_batch_1'])
def test_links_in_an_archive_are_refused_and_lead_nowhere(tmp_path, target):
    files = contents('cifar10', 'python') | {'data_batch_1': target}
    archive = write(tmp_path, 'cifar10', packed=True, files=files)
    refusal('cifar10', tmp_path, archive)


def test_a_link_that_leads_nowhere_beside_the_files_does_no_harm(tmp_path):
    files = contents('cifar10', 'python') | {'readme.html': 'gone.html'}
    write(tmp_path, 'cifar10', packed=True, files=files)
    assert_loaded(data.load('cifar10', tmp_path), 'cifar10')


def test_an_archive_writes_nothing_outside_or_inside_its_directory(tmp_path):
    home = tmp_path / 'a' / 'b'
    home.mkdir(parents=True)
    folder = FOLDERS['cifar10', 'python']
    outside = {
        '../stolen': b'1',
        str(tmp_path / 'absolute'): b'2',
        f'{folder}/../../up': b'3',
    }
    files = contents('cifar10', 'python')
    members = outside | {f'{folder}/{file}': b for file, b in files.items()}
    (home / ARCHIVES['cifar10', 'python']).write_bytes(tar(members))
    before = tree(tmp_path)
    assert_loaded(data.load('cifar10', home), 'cifar10')
    assert tree(tmp_path) == before


@pytest.mark.parametrize('layout', ['python', 'binary'])
@pytest.mark.parametrize('test', [False, True])
@pytest.mark.parametrize('change', [-1, 1])
def test_a_wrong_number_of_images_is_counted(
    tmp_path, monkeypatch, layout, test, change
):
    place = write(tmp_path, 'cifar10', layout)
    count = (10 if test else 50) - change
    monkeypatch.setattr(data, 'TEST_COUNT' if test else 'TRAIN_COUNT', count)
    refusal('cifar10', tmp_path, f'{place} holds {count + change} images')


def test_a_wrong_number_of_images_is_said_of_the_data_set(tmp_path, monkeypatch):
    write(tmp_path, 'cifar10')
    monkeypatch.setattr(data, 'TRAIN_COUNT', 60)
    refusal('cifar10', tmp_path, 'holds 50 images where cifar10 has 60')


PIXELS = np.zeros((10, 3072), np.uint8)
TEN = list(range(10))


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'labels': [*TEN[:9], 10]}, 'labels outside 0 … 9'),
        ({'labels': [*TEN[:9], -1]}, 'labels outside 0 … 9'),
        ({'labels': [*TEN[:9], 2**63]}, 'labels outside 0 … 9'),
        ({'labels': [*TEN[:9], 2**99]}, 'labels outside 0 … 9'),
        ({'labels': [*TEN[:9], 0.5]}, 'label'),
        ({'labels': np.array(TEN, np.float32)}, ''),
        ({'labels': ['cat'] * 10}, 'label'),
        ({'labels': [True] * 10}, 'label'),
        ({'labels': [[label] for label in TEN]}, 'label'),
        ({'labels': [TEN[:2], *TEN[1:]]}, ''),
        ({'labels': TEN[:9]}, '9 labels'),
        ({'labels': []}, '0 labels'),
        ({'labels': 3}, ''),
        ({'labels': None}, ''),
        ({'labels': 'cat'}, ''),
        ({'labels': {}}, ''),
        ({'data': PIXELS.astype(np.float32)}, ''),
        ({'data': PIXELS.astype(np.int8)}, 'int8'),
        ({'data': PIXELS.astype(np.int64)}, 'int64'),
        ({'data': PIXELS.astype(object)}, ''),
        ({'data': PIXELS.view([('a', np.uint8)])}, ''),
        ({'data': PIXELS.reshape(10, 3, 32, 32)}, '[10, 3, 32, 32]'),
        ({'data': PIXELS[:, 1:]}, '[10, 3071]'),
        ({'data': PIXELS[:9]}, '[9, 3072]'),
        ({'data': PIXELS[0]}, '[3072]'),
        ({'data': np.zeros((), np.uint8)}, ''),
        ({'data': [[0] * 3072] * 10}, 'int64'),
        ({'data': PIXELS.tobytes()}, ''),
        ({'data': None}, ''),
    ],
)
def test_a_batch_of_other_types_shapes_or_labels_is_refused(tmp_path, changes, said):
    batch = batch_of('cifar10', 'data_batch_4') | changes
    files = contents('cifar10', 'python') | {'data_batch_4': pickle.dumps(batch)}
    place = write(tmp_path, 'cifar10', files=files)
    refusal('cifar10', tmp_path, f'data_batch_4 in {place}', said)


@pytest.mark.parametrize('label', [100, 255])
def test_labels_out_of_range_in_a_binary_file_are_refused(tmp_path, label):
    files = contents('cifar100', 'binary')
    files['test.bin'] = b'\0' + bytes([label]) + files['test.bin'][2:]
    place = write(tmp_path, 'cifar100', 'binary', files=files)
    refusal('cifar100', tmp_path, f'test.bin in {place}', 'labels outside 0 … 99')


@pytest.mark.parametrize(
    'batch',
    [
        [],
        None,
        b'data',
        {},
        {'data': PIXELS},
        {'labels': TEN},
        {1: 2},
        {'\ud800': 1},
        {'data\n': 1},
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, batch):
    written = pickle.dumps(batch)
    files = contents('cifar10', 'python') | {'test_batch': written}
    place = write(tmp_path, 'cifar10', files=files)
    refusal('cifar10', tmp_path, f'test_batch in {place}')


def test_one_data_set_is_not_taken_for_the_other(tmp_path):
    folder = write(tmp_path, 'cifar100')
    folder.rename(tmp_path / FOLDERS['cifar10', 'python'])
    for file, other in (('train', 'data_batch_1'), ('test', 'test_batch')):
        os.rename(folder.parent / 'cifar-10-batches-py' / file, folder.parent / other)
    refusal('cifar10', tmp_path, 'data_batch_1')


@pytest.mark.parametrize('name', list(CIFAR))
def test_a_directory_without_cifar_is_refused_and_told_what_is_looked_for(
    tmp_path, name
):
    (tmp_path / 'notes.txt').write_text('nothing here')
    line = refusal(name, tmp_path, tmp_path)
    for layout in ('python', 'binary'):
        assert FOLDERS[name, layout] in line
        assert ARCHIVES[name, layout] in line


def test_a_directory_where_a_file_should_be_is_refused(tmp_path):
    folder = write(tmp_path, 'cifar10')
    (folder / 'data_batch_2').unlink()
    (folder / 'data_batch_2').mkdir()
    refusal('cifar10', tmp_path, folder / 'data_batch_2')


def test_a_directory_where_the_archive_should_be_is_refused(tmp_path):
    archive = tmp_path / ARCHIVES['cifar10', 'python']
    archive.mkdir()
    refusal('cifar10', tmp_path, archive)


@pytest.mark.parametrize('packed', [False, True])
def test_naming_a_file_instead_of_its_folder_is_refused(tmp_path, packed):
    place = write(tmp_path, 'cifar10', packed=packed)
    file = place if packed else place / 'data_batch_1'
    refusal('cifar10', file, f'{file} is not a directory')


def test_a_directory_that_may_not_be_listed_is_refused(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, 'Permission denied', str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'iterdir', denied)
        with pytest.raises(UserError, match='Permission denied'):
            data.load('cifar10', tmp_path)


def test_a_name_too_long_for_a_file_is_refused(tmp_path):
    with pytest.raises(UserError):
        data.load('cifar10', tmp_path / ('long' * 100))


# Pickles that want to run code.


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def as_text(module, name, argument):
    """A call in protocol 0, whose names need not exist where it is written."""
    return f'c{module}\n{name}\n(V{argument}\ntR.'.encode()


def attack_by_npy(marker):
    inner = marker.with_suffix('.npy')
    evil = np.array([Call(os.system, f'touch {marker}')], object)
    np.save(inner, evil, allow_pickle=True)
    return pickle.dumps(Call(np.load, str(inner), None, True))


def attack_in_an_object_array(marker):
    evil = np.array([Call(os.system, f'touch {marker}'), None], object)
    return pickle.dumps({'data': evil, 'labels': TEN})


def attack_by_state(marker):
    # The state of an array, which is made before NumPy looks at it.
    function, args, state = PIXELS.__reduce__()

    class Stated:
        def __reduce__(self):
            return function, args, (*state[:-1], Call(open, str(marker), 'w'))

    return pickle.dumps({'data': Stated(), 'labels': TEN})


def attack_by_key(marker):
    return pickle.dumps({Call(os.system, f'touch {marker}'): PIXELS})


ATTACKS = {
    'os.system': lambda m: pickle.dumps(Call(os.system, f'touch {m}')),
    'eval': lambda m: pickle.dumps(Call(eval, f'open({str(m)!r}, "w").close()')),
    'exec': lambda m: pickle.dumps(Call(exec, f'open({str(m)!r}, "w").close()')),
    'open': lambda m: pickle.dumps(Call(open, str(m), 'w')),
    'subprocess': lambda m: pickle.dumps(
        Call(subprocess.check_call, ['touch', str(m)])
    ),
    'getattr': lambda m: (
        f'cbuiltins\ngetattr\n(cimportlib\nimport_module\n(Vos\ntRVmkdir\ntR(V{m}\ntR.'
    ).encode(),
    'methodcaller': lambda m: (
        f'coperator\nmethodcaller\n(Vtouch\ntR(cpathlib\nPath\n(V{m}\ntRtR.'
    ).encode(),
    # Makes an object of any class, and this one opens its file.
    'copyreg': lambda m: pickle.dumps(
        Call(copyreg._reconstructor, logging.FileHandler, logging.FileHandler, str(m))
    ),
    'numpy.load': attack_by_npy,
    'numpy.savetxt': lambda m: pickle.dumps(Call(np.savetxt, str(m), [1.0])),
    'numpy.memmap': lambda m: pickle.dumps(
        Call(np.memmap, str(m), 'uint8', 'w+', 0, (1,))
    ),
    'ndarray.tofile': lambda m: pickle.dumps(
        Call(np.ndarray.tofile, np.zeros(1), str(m)), 4
    ),
    'protocol 0': lambda m: as_text('os', 'system', f'touch {m}'),
    'instance': lambda m: f"(S'touch {m}'\nios\nsystem\n.".encode(),
    'object': lambda m: f'(cos\nsystem\nVtouch {m}\no.'.encode(),
    'object array': attack_in_an_object_array,
    'array state': attack_by_state,
    'key': attack_by_key,
    'label': lambda m: pickle.dumps(
        {'data': PIXELS, 'labels': [Call(os.system, f'touch {m}')] * 10}
    ),
}


@pytest.mark.filterwarnings('ignore::ResourceWarning')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('attack', list(ATTACKS))
def test_no_code_of_a_pickle_is_run(tmp_path, attack):
    marker = tmp_path / 'was-here'
    written = ATTACKS[attack](marker)
    # An attack counts if the plain unpickler falls for it.
    with contextlib.suppress(Exception):
        pickle.loads(written)
    assert marker.exists()
    marker.rmdir() if marker.is_dir() else marker.unlink()
    files = contents('cifar10', 'python') | {'data_batch_1': written}
    for packed in (False, True):
        place = write(tmp_path / str(packed), 'cifar10', packed=packed, files=files)
        refusal('cifar10', place.parent, f'data_batch_1 in {place}')
        assert not marker.exists()


@pytest.mark.parametrize(
    'name',
    [
        'numpy.load',
        'numpy.save',
        'numpy.fromfile',
        'numpy.frombuffer',
        'numpy.array',
        'numpy.matrix',
        'numpy.ndarray.__reduce__',
        'numpy.core.multiarray.scalar',
        'numpy._core.multiarray.scalar',
        'numpy.core.multiarray.fromfile',
        'numpy.core.numeric.load',
        'numpy._core.numeric.multiarray._reconstruct',
        'numpy.ma.core._mareconstruct',
        'numpy.ctypeslib.load_library',
        'numpy.testing._private.utils.runstring',
        'codecs.encode',
        '_codecs.decode',
        'copyreg._reconstructor',
        'copy_reg._reconstructor',
        'builtins.getattr',
        '__builtin__.eval',
        'builtins.bytearray',
        'collections.OrderedDict',
        'pickle.loads',
        'experiments.cifar.data.fetch',
    ],
)
def test_every_name_outside_arrays_is_refused_by_name(name):
    module, function = name.rsplit('.', 1)
    stacked = b'\x80\x04' + b''.join(
        b'X' + len(text).to_bytes(4, 'little') + text.encode()
        for text in (module, function)
    )
    for pickled in (stacked + b'\x93.', f'c{module}\n{function}\n.'.encode()):
        with pytest.raises(UserError, match='and only NumPy arrays are admitted'):
            data.decode_pickle(pickled, CIFAR['cifar10'], 'here')


def test_text_is_decoded_as_latin1_alone():
    class Encoded:
        def __reduce__(self):
            return codecs.encode, ('abc', 'rot13')

    written = pickle.dumps({'data': PIXELS, 'labels': [Encoded()]}, 2)
    with pytest.raises(UserError, match='rot13'):
        data.decode_pickle(written, CIFAR['cifar10'], 'here')


def test_extension_codes_and_persistent_names_are_refused():
    for written in (b'\x80\x02\x82\xf0.', b'\x80\x02\x8a\x01\x05Q.', b'P1\n.'):
        with pytest.raises(UserError, match='here is truncated or no batch'):
            data.decode_pickle(written, CIFAR['cifar10'], 'here')


@pytest.mark.parametrize('name', ['\x1b[2Jall is well', 'x' * 100_000])
def test_a_pickle_cannot_write_control_characters_or_pages_to_the_terminal(
    tmp_path, name
):
    files = contents('cifar10', 'python')
    files['data_batch_1'] = as_text('os', name, '')
    write(tmp_path, 'cifar10', files=files)
    assert len(refusal('cifar10', tmp_path, 'data_batch_1')) < 2000


# A dtype that says of objects that it holds none makes pointers of a file's bytes.
FORGED = """
import pickle, sys
import numpy as np
from experiments.cifar import data
from experiments.lab.cli import UserError

class Made:
    def __init__(self, *reduced): self.reduced = reduced
    def __reduce__(self): return self.reduced

objects = Made(np.dtype, ('O8', False, True), (3, '|', None, None, None, -1, -1, 0))
fields = {'a': (np.dtype('O'), 4096)}
beyond = Made(
    np.dtype, ('V8', False, True), (3, '|', None, ('a',), fields, 8, 1, 0)
)
function, args, _ = np.empty(0).__reduce__()
dtype = {'objects': objects, 'beyond': beyond}[sys.argv[1]]
array = Made(function, args, (1, (4,), dtype, False, b'ABCDEFGH' * 4))
batch = {'data': np.zeros((1, 3072), np.uint8), 'labels': [array]}
try:
    data.decode_pickle(pickle.dumps(batch), data.CIFAR['cifar10'], 'here')
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize('forged', ['objects', 'beyond'])
def test_forged_array_types_do_not_turn_bytes_into_pointers(forged):
    run = subprocess.run(
        [sys.executable, '-c', FORGED, forged],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert 'here' in run.stdout


# What is fetched.


class Server:
    """A server of files on this machine that counts what is asked of it."""

    def __init__(self):
        self.files, self.asked, self.promised = {}, [], None
        serve = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                serve.asked.append(self.path)
                content = serve.files.get(self.path.removeprefix('/'))
                self.send_response(404 if content is None else 200)
                content = content or b''
                self.send_header('Content-Length', serve.promised or len(content))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.http = http.server.HTTPServer(('127.0.0.1', 0), Handler)
        self.home = f'http://127.0.0.1:{self.http.server_port}/'


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(data, 'HOME', server.home)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    with warnings.catch_warnings():
        # requests leaves the socket of a refused page to the garbage collector.
        warnings.simplefilter('ignore', ResourceWarning)
        yield server
        server.http.shutdown()
        thread.join()
        server.http.server_close()
        gc.collect()


@pytest.fixture(params=['--data-dir', 'cache'])
def home(request, tmp_path, monkeypatch):
    """Where files are fetched to, and what `load` is given to say so."""
    directory = tmp_path / 'new' / 'home'
    if request.param == 'cache':
        monkeypatch.setattr(pooch, 'os_cache', lambda name: directory)
        return directory, None
    return directory, directory


def publish(server, monkeypatch, name='cifar10'):
    """Serves the archive, and makes its hash the known one."""
    archive = packed_bytes(name, 'python')
    known = hashlib.sha256(archive).hexdigest()
    monkeypatch.setitem(CIFAR, name, CIFAR[name]._replace(sha256=known))
    server.files[ARCHIVES[name, 'python']] = archive


def files_in(directory):
    return [path for path in directory.rglob('*') if path.is_file()]


def refused_fetch(name, data_dir):
    with pytest.raises(UserError) as caught:
        data.load(name, data_dir)
    line = str(caught.value)
    assert line.isprintable()
    assert f'could not fetch {data.HOME}{ARCHIVES[name, "python"]}' in line
    assert 'name that with --data-dir' in line
    return line


@pytest.mark.parametrize('name', list(CIFAR))
def test_a_wrong_file_is_not_kept_and_the_right_one_is_fetched_once(
    server, home, monkeypatch, name
):
    directory, data_dir = home
    publish(server, monkeypatch, name)
    archive = ARCHIVES[name, 'python']
    right = server.files[archive]
    server.files[archive] = packed_bytes(name, 'python', {'data_batch_1': b'wrong'})
    assert 'does not match the known hash' in refused_fetch(name, data_dir)
    assert files_in(directory) == []

    server.files[archive] = right
    assert_loaded(data.load(name, data_dir), name)
    assert files_in(directory) == [directory / archive]
    assert (directory / archive).read_bytes() == right
    assert server.asked == [f'/{archive}'] * 2

    server.files.clear()
    loaded = data.load(name, data_dir)
    assert_loaded(loaded, name)
    assert loaded.source == str(directory / archive)
    assert len(server.asked) == 2


def test_an_empty_directory_is_filled(server, tmp_path, monkeypatch):
    publish(server, monkeypatch)
    assert_loaded(data.load('cifar10', tmp_path), 'cifar10')


def test_a_missing_page_is_refused_and_leaves_nothing(server, home):
    directory, data_dir = home
    assert '404' in refused_fetch('cifar10', data_dir)
    assert files_in(directory) == []


def test_a_download_that_breaks_off_is_refused_and_leaves_nothing(
    server, home, monkeypatch
):
    directory, data_dir = home
    publish(server, monkeypatch)
    server.promised = 10**6
    refused_fetch('cifar10', data_dir)
    assert files_in(directory) == []
    server.promised = None
    assert_loaded(data.load('cifar10', data_dir), 'cifar10')


@pytest.mark.parametrize(
    'error',
    [
        requests.ConnectionError('no route\nto host'),
        requests.Timeout('read timed out'),
        requests.exceptions.ChunkedEncodingError('broken'),
        ValueError('SHA256 hash of downloaded file\ndoes not match the known hash'),
        OSError(28, 'No space left on device'),
        PermissionError(13, 'Permission denied'),
    ],
)
def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch, error):
    def retrieve(*args, **kwargs):
        raise error

    monkeypatch.setattr(pooch, 'retrieve', retrieve)
    assert ' '.join(str(error).split()) in refused_fetch('cifar10', tmp_path)


def test_without_a_network_the_refusal_says_how_to_go_on(tmp_path):
    refused_fetch('cifar100', tmp_path / 'new')


@pytest.mark.parametrize('name', ['cifar10', 'mnist'])
def test_without_pooch_the_refusal_says_how_to_go_on(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, 'pooch', None)
    for data_dir in (None, tmp_path, tmp_path / 'new'):
        with pytest.raises(UserError, match=f'--data-dir {data_dir} .* install pooch'):
            data.load(name, data_dir)


def test_a_directory_with_other_files_is_not_fetched_into(server, tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    refusal('cifar10', tmp_path, tmp_path)
    assert server.asked == []


def test_an_archive_in_the_cache_that_changed_is_fetched_again(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(pooch, 'os_cache', lambda name: tmp_path)
    publish(server, monkeypatch)
    (tmp_path / ARCHIVES['cifar10', 'python']).write_bytes(b'damaged')
    assert_loaded(data.load('cifar10', None), 'cifar10')
    assert len(server.asked) == 1


def test_in_the_cache_only_the_archive_with_the_known_hash_is_read(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(pooch, 'os_cache', lambda name: tmp_path)
    publish(server, monkeypatch)
    batch = {'data': PIXELS, 'labels': TEN}
    files = dict.fromkeys(batches('cifar10'), pickle.dumps(batch))
    write(tmp_path, 'cifar10', files=files)
    loaded = data.load('cifar10', None)
    assert loaded.source == str(tmp_path / ARCHIVES['cifar10', 'python'])
    assert_loaded(loaded, 'cifar10')
