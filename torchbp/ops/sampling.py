"""Sampling images at the points of a grid, with its adjoint and its derivatives, as raw operators without gradient.

An image is (N, C, *spatial) with 2 or 3 spatial dimensions, a grid (N, *points, D) holds a point of [-1, 1]^D per
output, its component k belonging to the image's k-th dimension *from the end* (x, y, z). Along each component

    y = sum over taps i of w_i(u) x[i],    u = pixel coordinate of the grid's component,

and ``order`` says which derivative of w stands for it, per component; the factor (du/dgrid)^order, constant between
kinks, is contained. It is 0 where a border clips and changes its sign at a reflection. Order 0 is PyTorch's own
operator; so is the gradient of order 0. The others are computed by gathers and, the adjoint, by a scatter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_aten = torch.ops.aten

#: Each mode's weights are polynomials of this degree between kinks: a derivative above it is zero.
DEGREE = {"bilinear": 1, "nearest": 0, "bicubic": 3}
_MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
_PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}

# The weight of a tap at distance d, coefficients of 1, d, d², d³: the hat function, and for d <= 1 and 1 < d <= 2 the
# cubic of Keys, "Cubic convolution interpolation for digital image processing" (1981), with PyTorch's a = -3/4.
_HAT = (1.0, -1.0)
_A = -0.75
_NEAR = (1.0, 0.0, -(_A + 3), _A + 2)
_FAR = (-4 * _A, 8 * _A, -5 * _A, _A)


def vanishes(mode: str, order: Sequence[int]) -> bool:
    """Tell whether a derivative of the weights is zero everywhere."""
    return any(a > DEGREE[mode] for a in order)


# --------------------------------------------------------------------------------------------------
# Order 0: PyTorch's operators


def _settings(mode: str, padding_mode: str, align_corners: bool) -> tuple[int, int, bool]:
    return _MODES[mode], _PADDINGS[padding_mode], align_corners


def _safe(input: Tensor, grid: Tensor, mode: str, padding_mode: str) -> Tensor:
    """Return the grid without what PyTorch's gradient crashes on.

    Its bilinear gradient in two dimensions writes outside the image where a coordinate is NaN or, reflected,
    infinite. Its forward pass takes pixel 0 there, as -1 does, whose derivative is zero, too.
    """
    if grid.shape[-1] != 2 or mode != "bilinear" or padding_mode == "zeros":
        return grid
    if padding_mode == "border":
        return torch.where(grid.isnan(), -1.0, grid)
    far = torch.finfo(grid.dtype).max / max(input.shape[2:])
    return torch.where(grid.abs() <= far, grid, -1.0)


def gradients(
    grad_output: Tensor,
    input: Tensor,
    grid: Tensor,
    mode: str,
    padding_mode: str,
    align_corners: bool,
    output_mask: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of image and grid (order 0) in one pass, None where the mask is False."""
    operator = _aten.grid_sampler_2d_backward if input.dim() == 4 else _aten.grid_sampler_3d_backward
    grid = _safe(input, grid, mode, padding_mode)
    settings = _settings(mode, padding_mode, align_corners)
    gx, ggrid = operator(grad_output, input, grid, *settings, list(output_mask))
    return gx if output_mask[0] else None, ggrid if output_mask[1] else None


# --------------------------------------------------------------------------------------------------
# Any order


def _unnormalized(grid: Tensor, size: int, dimensions: int, align_corners: bool) -> tuple[Tensor, float]:
    """Return the pixel coordinate and its derivative, rounded as PyTorch's operator does in so many dimensions."""
    scale = (size - 1) / 2 if align_corners else size / 2
    if dimensions == 2:
        return (grid + 1) * scale - (0.0 if align_corners else 0.5), scale
    return ((grid + 1) / 2 * (size - 1) if align_corners else ((grid + 1) * size - 1) / 2), scale


def _padded(u: Tensor, size: int, padding_mode: str, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Return the coordinate as the padding moves it into the image, and the derivative of that: 1, 0 or -1.

    As in PyTorch's gradient, the first and the last pixel count as clipped.
    """
    sign = torch.ones_like(u)
    if padding_mode == "reflection":
        low, span = (0.0, size - 1) if align_corners else (-0.5, size)
        if span == 0:
            return torch.zeros_like(u), torch.zeros_like(u)
        extra = ((u - low).abs()).fmod(2 * span)
        sign = torch.where((u < low) ^ (extra > span), -sign, sign)
        u = torch.minimum(extra, 2 * span - extra) + low
    if padding_mode != "zeros":
        sign = torch.where((u > 0) & (u < size - 1), sign, 0)
        u = u.clamp(0, size - 1)
    return u, sign


def _polynomial(coefficients: Sequence[float], d: Tensor, order: int) -> Tensor:
    """Return a derivative of a polynomial by Horner's rule."""
    derived = [math.perm(i, order) * c for i, c in enumerate(coefficients)][order:]
    value = torch.full_like(d, derived[-1])
    for c in reversed(derived[:-1]):
        value = value * d + c
    return value


Tap = tuple[Tensor, Tensor, list[Tensor]]


def _taps(
    grid: Tensor, size: int, dimensions: int, orders: Sequence[int], mode: str, padding_mode: str, align_corners: bool
) -> list[Tap]:
    """Return, of one component, each tap's index, whether it is in the image, and its weight for every order.

    Mode nearest has no derivatives, and never comes here.
    """
    u, scale = _unnormalized(grid, size, dimensions, align_corners)
    if mode == "bicubic":  # the padding moves the taps, not the point between them
        slope = torch.full_like(u, scale)
        start, count = u.floor() - 1, 4
    else:
        u, sign = _padded(u, size, padding_mode, align_corners)
        slope, start, count = sign * scale, u.floor(), 2
    taps = []
    for i in range(count):
        place, before = start + i, i < count // 2
        d = u - place if before else place - u  # the distance, whose derivative is 1 before the point, -1 behind it
        if mode == "bilinear":
            coefficients: Sequence[float] = _HAT
        else:
            coefficients = _NEAR if i in (1, 2) else _FAR
            place = _padded(place, size, padding_mode, align_corners)[0]
        steepness = slope if before else -slope
        weights = [_polynomial(coefficients, d, a) * steepness**a for a in orders]
        inside = (place >= 0) & (place <= size - 1)  # not for NaN
        taps.append((place.nan_to_num(0.0).clamp(0, size - 1).long(), inside, weights))
    return taps


def _corners(grid, sizes, orders, mode, padding_mode, align_corners):
    """Yield every tap of the image: its flat index, whether it is inside, and per multi-index its weight.

    All are (N, points). ``orders`` lists multi-indices; where all of them vanish, there are no taps.
    """
    if all(vanishes(mode, order) for order in orders):
        return
    dimensions = len(sizes)
    flat = grid.reshape(grid.shape[0], math.prod(grid.shape[1:-1]), dimensions)
    components = []
    for k in range(dimensions):
        wanted = [order[k] for order in orders]
        size = sizes[dimensions - 1 - k]
        components.append(_taps(flat[..., k], size, dimensions, wanted, mode, padding_mode, align_corners))
    for chosen in itertools.product(*components):
        index, inside, weights = chosen[0]
        stride = 1
        for k in range(1, dimensions):
            stride = stride * sizes[dimensions - k]
            further, also, factors = chosen[k]
            index, inside = index + further * stride, inside & also
            weights = [w * f for w, f in zip(weights, factors, strict=True)]
        yield index, inside, weights


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _flattened(image: Tensor) -> Tensor:
    """Return (N, C, pixels) in the dtype that is computed in.

    (Its views, like all here, are among those that torch.autograd.grad(is_grads_batched=True) has rules for.)
    """
    return image.reshape(*image.shape[:2], math.prod(image.shape[2:])).to(_wide(image.dtype))


def _values(image: Tensor, index: Tensor, inside: Tensor) -> Tensor:
    """Return the flattened image's values at the indices, (N, C, points), 0 outside."""
    picked = image.gather(2, index.unsqueeze(1).expand(-1, image.shape[1], -1))
    return torch.where(inside.unsqueeze(1), picked, 0)


def sample(
    input: Tensor, grid: Tensor, order: Sequence[int], mode: str, padding_mode: str, align_corners: bool
) -> Tensor:
    """Return the image at the grid's points, (N, C, *points), by the order-th derivatives of the weights."""
    if not any(order):
        operator = _aten.grid_sampler_2d if input.dim() == 4 else _aten.grid_sampler_3d
        return operator(input, grid, *_settings(mode, padding_mode, align_corners))
    image, shape = _flattened(input), (*input.shape[:2], *grid.shape[1:-1])
    y = image.new_zeros((*input.shape[:2], math.prod(shape[2:])))
    for index, inside, (w,) in _corners(
        grid.to(image.dtype), input.shape[2:], [order], mode, padding_mode, align_corners
    ):
        y = y + w.unsqueeze(1) * _values(image, index, inside)
    return y.to(input.dtype).reshape(shape)


def scatter(
    grad_output: Tensor,
    grid: Tensor,
    input_size: Sequence[int],
    order: Sequence[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """Add each point's value to the taps it was sampled from, (N, C, *input_size); the adjoint of ``sample``."""
    shape = (*grad_output.shape[:2], *input_size)
    if not any(order):
        # The image itself does not matter to its gradient: one element stands for all.
        image = grad_output.new_zeros([1] * len(shape)).expand(shape)
        gx, _ = gradients(grad_output, image, grid, mode, padding_mode, align_corners, (True, False))
        assert gx is not None
        return gx
    g = _flattened(grad_output)
    gx = g.new_zeros((*shape[:2], math.prod(input_size)))
    for index, inside, (w,) in _corners(grid.to(g.dtype), input_size, [order], mode, padding_mode, align_corners):
        spread = torch.where(inside.unsqueeze(1), w.unsqueeze(1) * g, 0)
        gx = gx.scatter_add(2, index.unsqueeze(1).expand_as(spread), spread)
    return gx.to(grad_output.dtype).reshape(shape)


def grid_gradient(
    grad_output: Tensor,
    input: Tensor,
    grid: Tensor,
    order: Sequence[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
) -> Tensor:
    """Return, per component k, the sum over channels of g times the sample of order + 1 in k: (N, *points, D)."""
    if not any(order):
        _, ggrid = gradients(grad_output, input, grid, mode, padding_mode, align_corners, (False, True))
        assert ggrid is not None
        return ggrid
    image, g = _flattened(input), _flattened(grad_output)
    orders = [[a + (k == j) for j, a in enumerate(order)] for k in range(len(order))]
    kept = [k for k, one in enumerate(orders) if not vanishes(mode, one)]
    columns = [g.new_zeros((g.shape[0], g.shape[2])) for _ in orders]
    for index, inside, weights in _corners(
        grid.to(g.dtype), input.shape[2:], [orders[k] for k in kept], mode, padding_mode, align_corners
    ):
        product = (g * _values(image, index, inside)).sum(1)
        for k, w in zip(kept, weights, strict=True):
            columns[k] = columns[k] + w * product
    return torch.stack(columns, dim=-1).to(input.dtype).reshape(grid.shape)
