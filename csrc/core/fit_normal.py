"""Fits the polynomials of philox.h and prints their coefficients: near-minimax, by interpolation at Chebyshev points, in float64.

    python csrc/core/fit_normal.py

sin(x) = x + x y S(y) and cos(x) = 1 + y C(y) with y = x^2, |x| <= pi / 4;
log((1 + s) / (1 - s)) = 2 s + 2 s y A(y) with y = s^2, |s| <= 1/3.
"""
import numpy as np


def fit(rest, largest: float, degree: int) -> np.ndarray:
    """Coefficients, constant first, of the polynomial through rest(y) at the degree + 1 Chebyshev points of 0 <= y <= largest."""
    points = largest * (1 + np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))) / 2
    return np.linalg.solve(points[:, None] ** np.arange(degree + 1), rest(points))


FITS = {
    "sin": (lambda y: (np.sin(np.sqrt(y)) / np.sqrt(y) - 1) / y, (np.pi / 4) ** 2, 2),
    "cos": (lambda y: (np.cos(np.sqrt(y)) - 1) / y, (np.pi / 4) ** 2, 3),
    "log": (lambda y: (np.arctanh(np.sqrt(y)) / np.sqrt(y) - 1) / y, 1 / 9, 4),
}

if __name__ == "__main__":
    for name, (rest, largest, degree) in FITS.items():
        coefficients = fit(rest, largest, degree)
        y = np.linspace(0, largest, 100_001)[1:]
        error = abs(y * (np.polynomial.polynomial.polyval(y, coefficients.astype(np.float32).astype(float)) - rest(y))).max()
        print(f"{name}: {', '.join(f'{np.float32(c)!s}f' for c in coefficients)}; largest error {error:.1e}")
