"""Equal rows found by hashes, as on a device, and by sorting on the host: compared and timed.

python -m benchmarks.duplicates [--rows 1000000] [--bytes 64] [--device cpu] prints a line. A tenth
of the rows are copies of others, and a tenth differ from another one by one level in one byte.
"""
import argparse
import time

import numpy as np
import torch

from biasgen.ops import _duplicates


def near_duplicates(M: int, F: int, seed: int = 0) -> np.ndarray:
    """(M, F) uint8 noise, shuffled: M // 10 copies, and M // 10 rows one level off in one byte."""
    rng = np.random.default_rng(seed)
    part = M // 10
    base = rng.integers(0, 256, (M - 2 * part, F), dtype=np.uint8)
    copies, near = (base[rng.permutation(len(base))[:part]] for _ in range(2))
    near[np.arange(part), rng.integers(0, F, part)] ^= 1
    return rng.permutation(np.concatenate([base, copies, near]))


def line(rows: torch.Tensor) -> str:
    """Distinct rows, and the seconds that each way takes to find them, the better of two tries.

    AssertionError where the answers differ.
    """
    on_host = rows.cpu()
    hashes, sorting, first = [], [], None
    for _ in range(2):
        begin = time.perf_counter()
        found = _duplicates._by_hashes(rows).cpu()  # waits for the device
        hashes.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        first = _duplicates._by_sorting(on_host)
        sorting.append(time.perf_counter() - begin)
        assert torch.equal(found, first)
    M, F = rows.shape
    return (
        f"{M} x {F} bytes, {len(first.unique())} distinct: equal; "
        f"hashes on {rows.device} {min(hashes):.2f} s, sorting on the host {min(sorting):.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Equal rows by hashes and by sorting.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=64, help="of a row")
    parser.add_argument("--device", default="cpu", help="where hashes are computed and sorted")
    arguments = parser.parse_args()
    rows = torch.from_numpy(near_duplicates(arguments.rows, arguments.bytes))
    print(line(rows.to(arguments.device)))


if __name__ == "__main__":
    main()
