"""Cases of sampling at the points of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as builtin
from torch import Tensor

import torchbp.nn.functional as F
from torchbp.testing.cases._case import LayerCase, bytes_of, draw
from torchbp.testing.properties import Subject

_CRASH = {"nonfinite": "of points that are NaN the built-in's backward reads out of bounds"}


def grid_points(points: Sequence[int], image: Sequence[int], align_corners: bool) -> Tensor:
    """Return a grid (*points, D), up to about a pixel outside an image of these sizes, that keeps clear of kinks.

    Kinks lie at multiples of half a pixel (centres, edges), the points at least a fifth of a pixel from them.
    """
    generator = torch.Generator().manual_seed(sum(points) + sum(image))
    components = []
    for size in reversed(image):
        half = torch.randint(-2, 2 * size, tuple(points), generator=generator)
        pixel = half / 2 + 0.2 + 0.1 * torch.rand(tuple(points), generator=generator, dtype=torch.float64)
        components.append(2 * pixel / (size - 1) - 1 if align_corners else (2 * pixel + 1) / size - 1)
    return torch.stack(components, dim=-1)


def cases() -> list[LayerCase]:
    """Return the cases of this family."""
    found: list[LayerCase] = []

    def grid_sample(name: str, shape: Sequence[int], points: Sequence[int], **arguments: Any) -> None:
        arguments = {"align_corners": False, **arguments}
        grid = grid_points((shape[0], *points), shape[2:], arguments["align_corners"])
        x = draw(*shape)
        flat = arguments.get("mode") == "nearest"
        subject = Subject(
            partial(F.grid_sample, **arguments),
            (x, grid),
            partial(builtin.grid_sample, **arguments),
            small=x.numel() + grid.numel() <= 40,
            saved=(lambda x, grid: bytes_of(grid)) if flat else (lambda x, grid: bytes_of(x, grid)),
            batched=(0, 1),
        )
        crashes = arguments.get("mode", "bilinear") == "bilinear" and len(shape) == 4 and "padding_mode" in arguments
        found.append(LayerCase("grid_sample", f"grid_sample[{name}]", subject, _CRASH if crashes else {}))

    border, reflection = {"padding_mode": "border"}, {"padding_mode": "reflection"}
    bicubic, corners = {"mode": "bicubic"}, {"align_corners": True}
    grid_sample("bilinear", (1, 2, 3, 4), (2, 2))
    grid_sample("bilinear, border, corners", (2, 2, 3, 2), (2, 1), **border, **corners)
    grid_sample("bilinear, reflection", (1, 1, 2, 4), (3, 2), **reflection)
    grid_sample("bilinear, reflection, corners", (2, 3, 4, 5), (3, 4), **reflection, **corners)
    grid_sample("nearest", (2, 2, 3, 2), (1, 3), mode="nearest")
    grid_sample("nearest, reflection, corners", (1, 2, 3, 4), (2, 2), mode="nearest", **reflection, **corners)
    grid_sample("bicubic", (1, 1, 4, 3), (2, 2), **bicubic)
    grid_sample("bicubic, border, corners", (2, 2, 3, 2), (1, 2), **bicubic, **border, **corners)
    grid_sample("bicubic, reflection", (2, 3, 5, 4), (2, 3), **bicubic, **reflection)
    grid_sample("trilinear", (1, 1, 2, 3, 2), (1, 2, 1))
    grid_sample("trilinear, border", (2, 2, 3, 2, 4), (2, 1, 2), **border)
    grid_sample("trilinear, reflection, corners", (1, 2, 2, 3, 2), (1, 2, 2), **reflection, **corners)
    grid_sample("nearest, 3D, border", (1, 1, 2, 3, 4), (2, 1, 2), mode="nearest", **border)

    for name, shape, size, align_corners in (
        ("2D", (2, 2, 3), (2, 1, 3, 4), False),
        ("2D, corners", (1, 2, 3), (1, 3, 2, 3), True),
        ("3D", (2, 3, 4), (2, 1, 2, 3, 2), False),
        ("3D, corners", (1, 3, 4), (1, 1, 3, 2, 2), True),
    ):
        subject = Subject(
            partial(F.affine_grid, size=list(size), align_corners=align_corners),
            (draw(*shape),),
            partial(builtin.affine_grid, size=list(size), align_corners=align_corners),
            saved=lambda theta: 0,
        )
        found.append(LayerCase("affine_grid", f"affine_grid[{name}]", subject))

    def transformer(functions: Any) -> Any:
        def transform(x: Tensor, theta: Tensor) -> Tensor:
            grid = functions.affine_grid(theta, (1, 1, 2, 3), align_corners=False)
            return functions.grid_sample(x, grid, align_corners=False)

        return transform

    theta = torch.tensor([[[0.83, 0.17, 0.11], [-0.23, 0.71, 0.07]]], dtype=torch.float64)
    subject = Subject(
        transformer(F),
        (draw(1, 2, 3, 4), theta),
        transformer(builtin),
        saved=lambda x, theta: bytes_of(x) + 2 * 3 * 2 * 4,
    )
    found.append(LayerCase("grid_sample", "grid_sample[spatial transformer]", subject))
    return found
