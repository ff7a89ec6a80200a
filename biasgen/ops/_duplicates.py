"""Which rows of a set are equal: found by sorting on the host, by hashes on a device."""
import numpy as np
import torch

_COMPARED = 1024  # rows gathered at a time on the host to be compared
_BLOCK = 1 << 22  # bytes of rows hashed or compared at a time on a device: with temporaries 32 MiB


def groups(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sets of equal rows of (M, F), in order of first appearance. -0.0 equals 0.0; no NaN occurs.

    Returns first (U,), the smallest row number of each set; members (M,), all row numbers, set
    after set and ascending within a set; multiplicity (U,), the size of each set. All are int64 and
    lie where the rows do. Rows on a device are not copied to the host.
    """
    first_equal = _by_sorting(rows) if rows.device.type == "cpu" else _by_hashes(rows)
    ordered, members = torch.sort(first_equal, stable=True)
    del first_equal
    first, multiplicity = torch.unique_consecutive(ordered, return_counts=True)
    return first, members, multiplicity


def _by_sorting(rows: torch.Tensor) -> torch.Tensor:
    """(M,) the number of the first row that equals each of rows (M, F) on the host.

    The bytes of the rows are sorted. On a CPU that is quicker than hashes for small sets and for
    wide rows (python -m benchmarks.duplicates).
    """
    rows = rows + 0.0 if rows.is_floating_point() else rows  # makes -0.0 the bytes of 0.0
    data = rows.numpy().view(np.uint8)
    keys = data.view(np.dtype((np.void, data.shape[1])))[:, 0]  # compared as strings of bytes
    order = np.argsort(keys, kind="stable")
    differs = np.ones(len(keys), dtype=bool)  # from the row before it in `order`
    for start in range(1, len(keys), _COMPARED):
        run = keys[order[start - 1 : start + _COMPARED]]
        differs[start : start + _COMPARED] = run[1:] != run[:-1]
    return _first_of_runs(torch.from_numpy(order), torch.from_numpy(differs))


def _by_hashes(rows: torch.Tensor) -> torch.Tensor:
    """(M,) the number of the first row that equals each of rows (M, F), found where the rows are.

    Hashes of 128 bits are computed and sorted. Each row is then compared, element by element, with
    the first row of the same hash. Rows that differ from it are grouped anew among themselves, and
    so on until none differs. So the answer does not depend on the hash. Each round settles one
    distinct row of every hash; rows chosen to share one hash would take many rounds and give the
    right answer.

    The rows are read once for the hashes. A row that has an equal one before it is read once more,
    together with that one. Memory beside the rows: at most 96 M + 8 max(_BLOCK, bytes of a row)
    bytes. The host learns one number a round: how many rows are left.
    """
    first_equal = _first_equal(_hashes(rows))
    left = (first_equal != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
    while len(left := left[_differ(rows, left, first_equal[left])]):
        first_equal[left] = left[_first_equal(first_equal[left][None])]
    return first_equal


def _hashes(rows: torch.Tensor) -> torch.Tensor:
    """(2, M) int64: two halves of a hash of 128 bits of each of rows (M, F).

    A half is the sum of the row's 32-bit words, each times a key of 64 bits, modulo 2^64. If two
    words differ by d, 0 < |d| < 2^32, then d times a random key takes each of at least 2^33 values
    equally often. So two different rows agree in one half with a probability of at most 2^-33, and
    in both with at most 2^-66. Words of 64 bits would not do: a difference of 2^63 times a key is 0
    or 2^63.

    Source: the multilinear family of Carter and Wegman, J. Computer and System Sciences 18 (1979);
    Lemire and Kaser, Strongly universal string hashing is fast, The Computer Journal 57 (2014).
    """
    row_bytes = rows.shape[1] * rows.element_size()
    missing = -row_bytes % 4
    size, generator = (2, (row_bytes + missing) // 4), torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, size, generator=generator, device="cpu")
    keys = keys.to(rows.device)
    hashes = torch.empty(2, len(rows), dtype=torch.int64, device=rows.device)
    step = max(1, _BLOCK // row_bytes)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        block = block + 0.0 if block.is_floating_point() else block  # makes -0.0 the bytes of 0.0
        # Padding copies even if no byte is missing: rows of a slice may begin at an odd address.
        data = torch.nn.functional.pad(block.view(torch.uint8), (0, missing))
        words = data.view(torch.int32).long()
        for half, key in zip(hashes, keys, strict=True):
            torch.sum(words * key, 1, out=half[start : start + step])
    return hashes


def _first_equal(keys: torch.Tensor) -> torch.Tensor:
    """(n,) the number of the first column that equals each column of keys (K, n)."""
    order = torch.arange(keys.shape[1], device=keys.device)
    for key in keys.flip(0):  # the first key decides, so it is sorted by last
        order = order[torch.sort(key[order], stable=True).indices]
    differs = torch.ones_like(order, dtype=torch.bool)  # from the column before it in `order`
    ordered = keys[:, order]
    differs[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(0)
    return _first_of_runs(order, differs)


def _first_of_runs(order: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
    """(n,) the first number of the run that holds each of 0 .. n - 1.

    order (n,) holds these numbers, run after run; begins (n,) says whether a run begins there.
    """
    first_equal = torch.empty_like(order)
    first_equal[order] = order[begins][begins.cumsum(0).sub_(1)]
    return first_equal


def _differ(rows: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n,) bool: whether the rows of numbers left (n,) and right (n,) differ."""
    found = torch.empty(len(left), dtype=torch.bool, device=rows.device)
    step = max(1, _BLOCK // (rows.shape[1] * rows.element_size()))
    for start in range(0, len(left), step):
        pair = rows[left[start : start + step]], rows[right[start : start + step]]
        torch.any(pair[0] != pair[1], 1, out=found[start : start + step])
    return found
