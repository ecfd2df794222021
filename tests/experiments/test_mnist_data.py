"""experiments/cifar/mnist: the four IDX files in every layout, and what is refused."""

import functools
import gzip
import hashlib
import itertools
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pooch
import pytest
import test_cifar_data
from test_cifar_data import files_in, refusal, tree

from experiments.cifar import data, mnist
from experiments.lab.cli import UserError

NAMES = (
    'train-images-idx3-ubyte',
    'train-labels-idx1-ubyte',
    't10k-images-idx3-ubyte',
    't10k-labels-idx1-ubyte',
)
IMAGES, LABELS = NAMES[2:]  # the ones that are damaged
PLACES = ('', 'MNIST/raw', 'raw')
COUNTS = mnist.TRAIN_COUNT, mnist.TEST_COUNT

home = test_cifar_data.home
cifar_server = test_cifar_data.server


@pytest.fixture(autouse=True)
def small_and_offline(monkeypatch):
    """20 and 10 images, and nothing is asked of the real server."""
    monkeypatch.setattr(mnist, 'TRAIN_COUNT', 20)
    monkeypatch.setattr(mnist, 'TEST_COUNT', 10)
    monkeypatch.setattr(mnist, 'HOME', 'http://127.0.0.1:9/')
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')


@functools.cache
def arrays():
    """Images and labels by the name of their file."""
    rng = np.random.default_rng(0)
    made = {}
    for split, count in (('train', 20), ('t10k', 10)):
        made[f'{split}-images-idx3-ubyte'] = rng.integers(0, 256, (count, 28, 28))
        made[f'{split}-labels-idx1-ubyte'] = rng.permutation(count) % 10
    return made


def idx(array, kind=8, sizes=None):
    """The format as published: 0, 0, type, dimensions; the sizes; the bytes."""
    sizes = array.shape if sizes is None else sizes
    header = bytes([0, 0, kind, len(sizes)]) + struct.pack(f'>{len(sizes)}I', *sizes)
    return header + array.astype(np.uint8).tobytes()


def contents():
    return {name: idx(array) for name, array in arrays().items()}


def spelt(name, dotted=False, packed=False):
    return (name.replace('-idx', '.idx') if dotted else name) + '.gz' * packed


def write(directory, files=None, *, dotted=False, packed=False):
    """Writes the files in one spelling."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (contents() if files is None else files).items():
        content = gzip.compress(content, 1) if packed else content
        (directory / spelt(name, dotted, packed)).write_bytes(content)
    return directory


def assert_loaded(loaded):
    for split, name in ((loaded.train, 'train'), (loaded.test, 't10k')):
        images = arrays()[f'{name}-images-idx3-ubyte']
        assert split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        np.testing.assert_array_equal(split.images, images[..., None], strict=False)
        assert split.images.shape == (len(images), 28, 28, 1)
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(
            split.labels, arrays()[f'{name}-labels-idx1-ubyte']
        )


# What is read.


@pytest.mark.parametrize(
    ('place', 'dotted', 'packed'),
    list(itertools.product(PLACES, (False, True), (False, True))),
)
def test_every_layout_gives_the_same_images_and_labels(tmp_path, place, dotted, packed):
    write(tmp_path / place, dotted=dotted, packed=packed)
    before = tree(tmp_path)
    loaded = data.load('mnist', tmp_path)
    assert_loaded(loaded)
    assert loaded.source == str(tmp_path / place)
    assert (loaded.classes, loaded.flip, loaded.padding) == (10, False, 2)
    assert tree(tmp_path) == before


def test_each_file_may_have_a_spelling_of_its_own(tmp_path):
    spellings = itertools.product((False, True), (False, True))
    for (name, content), (dotted, packed) in zip(
        contents().items(), spellings, strict=True
    ):
        write(tmp_path, {name: content}, dotted=dotted, packed=packed)
    assert_loaded(data.load('mnist', tmp_path))


def test_all_60_000_and_10_000_images_are_asked_for(tmp_path, monkeypatch):
    assert COUNTS == (60_000, 10_000)
    monkeypatch.setattr(mnist, 'TRAIN_COUNT', COUNTS[0])
    monkeypatch.setattr(mnist, 'TEST_COUNT', COUNTS[1])
    files = {}
    for name, count in zip(('train', 't10k'), COUNTS, strict=True):
        files[f'{name}-images-idx3-ubyte'] = idx(np.zeros((count, 28, 28), np.uint8))
        files[f'{name}-labels-idx1-ubyte'] = idx(np.full(count, 9))
    write(tmp_path, files, packed=True)
    loaded = data.load('mnist', tmp_path)
    assert loaded.train.images.shape == (60_000, 28, 28, 1)
    assert loaded.test.images.shape == (10_000, 28, 28, 1)
    assert (loaded.train.labels.shape, loaded.test.labels.shape) == (
        (60_000,),
        (10_000,),
    )


def test_of_an_unpacked_file_and_its_gz_the_unpacked_one_is_read(tmp_path):
    write(tmp_path / 'MNIST/raw', dict.fromkeys(NAMES, b'damaged'), packed=True)
    write(tmp_path / 'MNIST/raw')
    assert_loaded(data.load('mnist', tmp_path))


def test_a_folder_called_like_a_file_does_not_hide_the_file_beside_it(tmp_path):
    write(tmp_path, dotted=True)
    for name in NAMES:
        (tmp_path / name).mkdir()
    assert_loaded(data.load('mnist', tmp_path))


def test_other_files_beside_the_data_are_ignored(tmp_path):
    write(tmp_path)
    (tmp_path / '.DS_Store').write_bytes(b'\0')
    (tmp_path / 'raw').mkdir()
    (tmp_path / 'emnist-letters-train-images-idx3-ubyte').write_bytes(b'no IDX')
    assert_loaded(data.load('mnist', tmp_path))


def test_a_gzip_in_several_members_is_one_file(tmp_path):
    write(tmp_path, packed=True)
    content = contents()[IMAGES]
    halves = gzip.compress(content[:3000]) + gzip.compress(content[3000:])
    (tmp_path / f'{IMAGES}.gz').write_bytes(halves)
    assert_loaded(data.load('mnist', tmp_path))


# What is refused, in one line that names the file.


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('missing', NAMES)
def test_a_missing_file_is_named(tmp_path, place, packed, missing):
    files = contents()
    del files[missing]
    folder = write(tmp_path / place, files, packed=packed)
    line = refusal('mnist', tmp_path, f'{folder} holds no {missing}, with .gz')
    assert not any(name in line for name in files)


def test_a_directory_without_mnist_is_refused_and_told_what_is_looked_for(tmp_path):
    (tmp_path / 'notes.txt').write_text('nothing here')
    refusal('mnist', tmp_path, f'--data-dir {tmp_path} holds no', *NAMES)


def test_a_directory_where_a_file_should_be_is_no_file(tmp_path):
    write(tmp_path)
    (tmp_path / IMAGES).unlink()
    (tmp_path / IMAGES).mkdir()
    refusal('mnist', tmp_path, f'holds no {IMAGES}')


def test_naming_a_file_instead_of_its_folder_is_refused(tmp_path):
    file = write(tmp_path) / IMAGES
    refusal('mnist', file, f'{file} is not a directory')


@pytest.mark.parametrize('method', ['iterdir', 'is_file', 'open'])
def test_what_may_not_be_read_is_refused(tmp_path, monkeypatch, method):
    write(tmp_path)

    def denied(path, *_):
        raise PermissionError(13, 'Permission denied', str(path))

    with monkeypatch.context() as patch:
        if method == 'open':
            patch.setattr('builtins.open', denied)
        else:
            patch.setattr(Path, method, denied)
        with pytest.raises(UserError, match=f'{tmp_path}.*Permission denied'):
            data.load('mnist', tmp_path)


@pytest.mark.parametrize('name', NAMES)
def test_a_file_is_refused_wherever_it_is_cut(tmp_path, name):
    whole, shape = contents()[name], arrays()[name].shape
    file = tmp_path / name
    for cut in {*range(min(30, len(whole))), *range(0, len(whole), 97), -9, -2, -1}:
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=f'{file} has fewer than {len(whole)} byt'):
            mnist.read_idx(file, shape)
    file.write_bytes(whole)
    np.testing.assert_array_equal(mnist.read_idx(file, shape), arrays()[name])


@pytest.mark.parametrize('level', [0, 9])
@pytest.mark.parametrize('name', NAMES)
def test_a_gz_is_refused_wherever_it_is_cut(tmp_path, name, level):
    whole, shape = gzip.compress(contents()[name], level), arrays()[name].shape
    file = tmp_path / f'{name}.gz'
    for cut in {*range(0, len(whole), 97), *range(1, 30), *range(-30, 0)}:
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=f'{file} ') as caught:
            mnist.read_idx(file, shape)
        assert str(caught.value).endswith('fetch it again')
    file.write_bytes(whole)
    np.testing.assert_array_equal(mnist.read_idx(file, shape), arrays()[name])


@pytest.mark.parametrize('name', [IMAGES, LABELS])
def test_no_changed_byte_of_a_gz_changes_a_value_unseen(tmp_path, name):
    whole, shape = gzip.compress(contents()[name]), arrays()[name].shape
    file = tmp_path / f'{name}.gz'
    for at in {*range(min(200, len(whole))), *range(0, len(whole), 61)}:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            # Nobody's concern: the header's time and system, padding at the end.
            read = mnist.read_idx(file, shape)
        except UserError as error:
            assert str(error).isprintable()
            assert str(file) in str(error)
        else:
            np.testing.assert_array_equal(read, arrays()[name])


def test_a_changed_pixel_fails_the_checksum(tmp_path):
    # Uncompressed, so that nothing but the checksum can tell.
    whole = bytearray(gzip.compress(contents()[IMAGES], 0))
    whole[5000] ^= 1
    file = write(tmp_path, packed=True) / f'{IMAGES}.gz'
    file.write_bytes(whole)
    refusal('mnist', tmp_path, f'{file} is truncated or no .gz (CRC check failed')


@pytest.mark.parametrize(
    'content', [b'<html>404 Not Found</html>' * 99, bytes(99), idx(np.zeros(10))]
)
def test_a_file_that_is_no_gzip_is_refused(tmp_path, content):
    file = write(tmp_path, packed=True) / f'{LABELS}.gz'
    file.write_bytes(content)
    refusal('mnist', tmp_path, f'{file} is truncated or no .gz (Not a gzipped file')


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('more', [1, 784, 10_000])
def test_a_file_that_is_too_long_is_refused(tmp_path, name, packed, more):
    files = contents()
    files[name] += bytes(more)
    write(tmp_path, files, packed=packed)
    refusal(
        'mnist', tmp_path, f'{spelt(name, packed=packed)} has more than', 'another file'
    )


def test_bytes_after_the_end_of_a_gz_are_refused(tmp_path):
    file = write(tmp_path, packed=True) / f'{IMAGES}.gz'
    file.write_bytes(file.read_bytes() + b'more')
    refusal('mnist', tmp_path, f'{file} is truncated or no .gz')


@pytest.mark.parametrize(
    ('kind', 'sizes', 'said'),
    [
        (9, (10, 28, 28), 'starts with 0x00000903, not with 0x00000803'),
        (13, (10, 28, 28), 'starts with 0x00000d03'),
        (8, (10, 784), 'starts with 0x00000802'),
        (8, (10, 28, 28, 1), 'starts with 0x00000804'),
        (8, (9, 28, 28), 'is of 9 × 28 × 28 bytes where mnist has 10 × 28 × 28'),
        (8, (11, 28, 28), 'is of 11 × 28 × 28'),
        (8, (0, 28, 28), 'is of 0 × 28 × 28'),
        (8, (40, 14, 14), 'is of 40 × 14 × 14'),
        (8, (10, 784, 1), 'is of 10 × 784 × 1'),
        (8, (2**32 - 1,) * 3, 'is of 4294967295 × 4294967295 × 4294967295'),
    ],
)
def test_a_header_of_something_else_is_refused(tmp_path, kind, sizes, said):
    files = contents() | {IMAGES: idx(arrays()[IMAGES], kind, sizes)}
    write(tmp_path, files)
    refusal('mnist', tmp_path, f'{tmp_path / IMAGES} {said}', 'fetch it again')


@pytest.mark.parametrize('sizes', [(9,), (11,), (2**32 - 1,)])
def test_another_number_of_labels_is_refused(tmp_path, sizes):
    write(tmp_path, contents() | {LABELS: idx(arrays()[LABELS], 8, sizes)})
    refusal('mnist', tmp_path, f'{tmp_path / LABELS} is of {sizes[0]} bytes where')


@pytest.mark.parametrize('name', [IMAGES, LABELS])
@pytest.mark.parametrize('change', [-1, 1])
def test_images_and_labels_of_unequal_number_are_refused(tmp_path, name, change):
    array = np.resize(arrays()[name], (10 + change, *arrays()[name].shape[1:]))
    write(tmp_path, contents() | {name: idx(array)})
    refusal('mnist', tmp_path, f'{tmp_path / name} is of {10 + change}')


def test_little_endian_headers_are_refused(tmp_path):
    header = struct.pack('<4I', 0x803, 10, 28, 28)
    write(tmp_path, contents() | {IMAGES: header + bytes(7840)})
    refusal('mnist', tmp_path, f'{tmp_path / IMAGES} starts with 0x03080000')


@pytest.mark.parametrize(('one', 'other'), list(itertools.combinations(NAMES, 2)))
def test_no_file_is_taken_for_another(tmp_path, one, other):
    files = contents()
    files[one], files[other] = files[other], files[one]
    write(tmp_path, files)
    refusal('mnist', tmp_path, f'{tmp_path / one} ')


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('label', [10, 255])
@pytest.mark.parametrize('at', [0, -1])
def test_labels_out_of_range_are_refused(tmp_path, packed, label, at):
    labels = arrays()[LABELS].copy()
    labels[at] = label
    write(tmp_path, contents() | {LABELS: idx(labels)}, packed=packed)
    file = tmp_path / spelt(LABELS, packed=packed)
    refusal('mnist', tmp_path, f'{file} has labels outside 0 … 9')


def test_neither_a_header_nor_a_huge_file_makes_room_for_more_than_is_wanted(tmp_path):
    header = idx(np.empty(0), 8, (2**32 - 1,) * 3)
    bomb = gzip.compress(header + bytes(50_000_000))
    (tmp_path / f'{IMAGES}.gz').write_bytes(bomb)
    with (tmp_path / IMAGES).open('wb') as file:
        file.write(header)
        file.truncate(2**40)  # takes no room on the disk
    for path in tmp_path.iterdir():
        tracemalloc.start()
        with pytest.raises(UserError, match='is of 4294967295 × 4294967295'):
            mnist.read_idx(path, (10, 28, 28))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
        tracemalloc.stop()


# What is fetched.


@pytest.fixture
def server(cifar_server, monkeypatch):
    monkeypatch.setattr(mnist, 'HOME', cifar_server.home)
    return cifar_server


def publish(server, monkeypatch):
    """Serves the files, and makes their hashes the known ones."""
    for name, content in contents().items():
        packed = gzip.compress(content)
        monkeypatch.setitem(mnist.SHA256, name, hashlib.sha256(packed).hexdigest())
        server.files[f'{name}.gz'] = packed


def refused_fetch(name, data_dir):
    with pytest.raises(UserError) as caught:
        data.load('mnist', data_dir)
    line = str(caught.value)
    assert line.isprintable()
    assert f'could not fetch {mnist.HOME}{name}.gz' in line
    assert 'name that with --data-dir' in line
    return line


def test_the_files_are_fetched_once(server, home, monkeypatch):
    directory, data_dir = home
    publish(server, monkeypatch)
    loaded = data.load('mnist', data_dir)
    assert_loaded(loaded)
    assert loaded.source == str(directory)
    assert {path.name: path.read_bytes() for path in files_in(directory)} == (
        server.files
    )
    assert server.asked == [f'/{name}.gz' for name in NAMES]
    server.files.clear()
    assert_loaded(data.load('mnist', data_dir))
    assert len(server.asked) == 4


@pytest.mark.parametrize('name', NAMES)
def test_a_wrong_file_is_not_kept(server, home, monkeypatch, name):
    directory, data_dir = home
    publish(server, monkeypatch)
    server.files[f'{name}.gz'] = gzip.compress(b'wrong')
    assert 'does not match the known hash' in refused_fetch(name, data_dir)
    before = NAMES[: NAMES.index(name)]
    assert {path.name for path in files_in(directory)} == {f'{n}.gz' for n in before}


def test_a_missing_page_is_refused_and_leaves_nothing(server, home):
    directory, data_dir = home
    assert '404' in refused_fetch(NAMES[0], data_dir)
    assert files_in(directory) == []


def test_a_download_that_breaks_off_is_refused_and_begun_again(
    server, home, monkeypatch
):
    directory, data_dir = home
    publish(server, monkeypatch)
    server.promised = 10**6
    refused_fetch(NAMES[0], data_dir)
    assert files_in(directory) == []
    server.promised = None
    assert_loaded(data.load('mnist', data_dir))


def test_what_a_download_that_broke_off_lacks_is_named_and_may_be_put_there(
    server, tmp_path, monkeypatch
):
    publish(server, monkeypatch)
    last = server.files.pop(f'{LABELS}.gz')
    assert '404' in refused_fetch(LABELS, tmp_path)
    refusal('mnist', tmp_path, f'{tmp_path} holds no {LABELS}')
    (tmp_path / f'{LABELS}.gz').write_bytes(last)
    assert_loaded(data.load('mnist', tmp_path))


def test_without_a_network_the_refusal_says_how_to_go_on(tmp_path):
    refused_fetch(NAMES[0], tmp_path / 'new')


def test_a_directory_with_other_files_is_not_fetched_into(server, tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    refusal('mnist', tmp_path, tmp_path)
    assert server.asked == []


def test_in_the_cache_only_files_with_the_known_hashes_are_read(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(pooch, 'os_cache', lambda name: tmp_path)
    publish(server, monkeypatch)
    write(tmp_path, dict.fromkeys(NAMES, b'planted'))
    (tmp_path / f'{IMAGES}.gz').write_bytes(b'damaged')
    assert_loaded(data.load('mnist', None))
    assert len(server.asked) == 4
