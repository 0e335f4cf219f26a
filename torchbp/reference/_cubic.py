"""Cubic convolution: the factor of a value at a distance, as interpolation and sampling weigh it.

    k(d) = (a + 2) · |d|³ - (a + 3) · |d|² + 1        for |d| <= 1
    k(d) = a · |d|³ - 5a · |d|² + 8a · |d| - 4a       for 1 < |d| < 2, and 0 beyond

k passes through 1 at 0 and through 0 at every other whole number, its slope is continuous, and the four factors
that cover a position sum to 1.

Source: Keys, "Cubic convolution interpolation for digital image processing", 1981.
"""

from __future__ import annotations


def cubic(distance: float, a: float) -> float:
    """Return k(distance)."""
    d = abs(distance)
    if d <= 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    if d < 2:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return 0.0


def cubic_slope(distance: float, a: float) -> float:
    """Return the derivative of k at `distance`."""
    d = abs(distance)
    sign = -1 if distance < 0 else 1
    if d <= 1:
        return sign * (3 * (a + 2) * d - 2 * (a + 3)) * d
    if d < 2:
        return sign * ((3 * a * d - 10 * a) * d + 8 * a)
    return 0.0
