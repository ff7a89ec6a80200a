"""The squared distance of pairs of float rows, to the bit: sixteen lanes in float64, nothing fused (docs/exactness.md)."""
import torch
import triton
import triton.language as tl

TILE_P = 32  # pairs a program, sixteen lanes each
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


# Of the caller's rows and parts of lists, which begin at any address: no variant for aligned ones.
_UNALIGNED = ["query", "queries", "rows"]


@triton.jit(do_not_specialize=["P", "D"], do_not_specialize_on_alignment=_UNALIGNED)
def _values_kernel(query, reference, queries, rows, values, P, D, TILE_P: tl.constexpr):
    """query (N, D) float64, reference (M, D) float32 or float64; queries, rows (P,) int64 -> values (P,) float64."""
    p = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    present = p < P
    x_at = tl.load(queries + p, mask=present, other=0) * D
    y_at = tl.load(rows + p, mask=present, other=0) * D
    lane = tl.arange(0, 16)
    lanes = tl.zeros((TILE_P, 16), tl.float64)
    for k in range(0, D, 16):
        inside = present[:, None] & (k + lane < D)[None, :]
        x = tl.load(query + x_at[:, None] + (k + lane)[None, :], mask=inside, other=0.0)
        y = tl.load(reference + y_at[:, None] + (k + lane)[None, :], mask=inside, other=0.0)
        difference = x - y.to(tl.float64)
        lanes += difference * difference
    for width in tl.static_range(3, -1, -1):
        low, high = tl.split(tl.permute(tl.reshape(lanes, (TILE_P, 2, 1 << width)), (0, 2, 1)))
        lanes = low + high
    tl.store(values + p, tl.reshape(lanes, (TILE_P,)), mask=present)


def squared(query: torch.Tensor, reference: torch.Tensor, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(P,) float64: squared distances of the pairs (queries[p], rows[p]), int64, of query (N, D) float64 and reference (M, D) floats."""
    values = torch.empty(len(rows), dtype=torch.float64, device=query.device)
    if len(rows):
        with torch.cuda.device_of(query):
            _values_kernel[(triton.cdiv(len(rows), TILE_P),)](
                query.contiguous(), reference, queries, rows, values, len(rows), query.shape[1], TILE_P=TILE_P, **OPTIONS
            )
    return values
