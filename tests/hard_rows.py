"""Float rows that break a careless bound, by name."""
import numpy as np


def hard_rows():
    """{name: (60, 50)}: normal ones, one float32 ulp apart, an outlier that ruins a common scale, both zeros, the ends of the range."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 50)).astype(np.float32)
    ulp = np.repeat(rows[:1], 40, 0)
    ulp[np.arange(40), np.arange(40)] = np.nextafter(ulp[0, :40], np.float32(9))
    outlier = rows.copy()
    outlier[7, 3] = 1e6
    signed = np.where(rng.random((60, 50)) < 0.5, np.float32(-0.0), np.float32(0.0))
    signed[::3, 0] = 1
    return {
        "normal": rows,
        "ulp": ulp,
        "outlier": outlier,
        "signed zeros": signed,
        "underflowing squares": rows.astype(np.float64) * 1e-161,
        "huge": rows.astype(np.float64) * 1e149,
    }
