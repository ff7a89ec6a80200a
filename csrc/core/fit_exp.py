"""Fits the polynomial of tree_exp.h and prints its coefficients: 2^g on 0 <= g <= 1, smallest largest relative error, exact at 0.

    python csrc/core/fit_exp.py

Remez exchange in float64: p(g) = 1 + g (c1 + g (c2 + ... )), where the error p(g) / 2^g - 1 takes its largest size, with alternating signs,
at DEGREE + 1 points. The coefficients are then rounded to float32 and the error of Horner's rule in float32 is printed as well.
"""
import numpy as np

DEGREE = 6


def fit(degree: int, rounds: int = 30) -> tuple[np.ndarray, float]:
    """(coefficients of g, g^2 ... g^degree, largest relative error)."""
    grid = (1 - np.cos(np.linspace(0, np.pi, 20001))) / 2
    points = (1 - np.cos(np.pi * np.arange(1, degree + 2) / (degree + 1))) / 2
    exponents = np.arange(1, degree + 1)
    signs = (-1.0) ** np.arange(degree + 1)
    for _ in range(rounds):
        target = np.exp2(points)
        system = np.column_stack([points[:, None] ** exponents / target[:, None], signs])
        solution = np.linalg.solve(system, 1 - 1 / target)
        coefficients, level = solution[:-1], abs(solution[-1])
        error = (1 + grid[:, None] ** exponents @ coefficients) / np.exp2(grid) - 1
        if abs(error).max() < level * (1 + 1e-6):
            break
        turns = np.flatnonzero(np.diff(np.sign(error[1:]))) + 1
        points = np.array([grid[piece[np.argmax(abs(error[piece]))]] for piece in np.split(np.arange(1, len(grid)), turns)])
    return coefficients, float(abs(error).max())


def float32_horner(coefficients: np.ndarray, g: np.ndarray) -> np.ndarray:
    """p(g) in float32, no fused operations."""
    p = np.full_like(g, coefficients[-1])
    for c in coefficients[-2::-1]:
        p = p * g + np.float32(c)
    return p * g + np.float32(1)


if __name__ == "__main__":
    coefficients, error = fit(DEGREE)
    for power, c in enumerate(coefficients, start=1):
        print(f"c{power} = {np.float32(c)!s}f")
    g = np.linspace(0, 1, 1_000_001, dtype=np.float32)
    p = float32_horner(coefficients.astype(np.float32), g)
    print(f"largest relative error {error:.2e}, in float32 {abs(p / np.exp2(g.astype(np.float64)) - 1).max():.2e}; p(1) = {p[-1]}")
