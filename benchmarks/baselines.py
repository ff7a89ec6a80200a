"""What a competent user would write without biasgen; benchmarks check that a baseline is right on the input before they time it."""
import numpy as np
import torch


def hamming_loop(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Nearest Hamming distance of each query, one NumPy comparison with the whole reference a query (the paper's own code, vectorised)."""
    return np.array([np.count_nonzero(reference != row, axis=1).min() for row in query])


def uint8_matmul(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Nearest squared distance of uint8 rows, exact: float64 product of the expanded square (float32 is not exact beyond 2**24)."""
    x = torch.from_numpy(query).double()
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for block in torch.from_numpy(reference).split(4096):
        y = block.double()
        squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)
        nearest = torch.minimum(nearest, squares.min(1).values)
    return nearest.numpy()


def faiss_flat(reference: np.ndarray, inner_product: bool = False):
    """faiss's exhaustive search of float32 rows, or of rows of bits (uint8: one-hot tokens packed by eight), on one thread.

    inner_product: by the largest product, of rows at length 1 the smallest cosine distance, instead of the smallest squared distance.
    """
    import faiss  # not at the top: benchmarks without it need no faiss

    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP if inner_product else faiss.IndexFlatL2
    index = faiss.IndexBinaryFlat(8 * reference.shape[1]) if reference.dtype == np.uint8 else flat(reference.shape[1])
    index.add(reference)
    return index


def one_hot_bits(tokens: np.ndarray, symbols: int) -> np.ndarray:
    """(N, bytes) uint8: each token as `symbols` bits; two tokens that differ then differ in two bits."""
    return np.packbits((tokens[:, :, None] == np.arange(symbols)).reshape(len(tokens), -1), axis=1)


def linear_posterior(transitions: torch.Tensor | list[torch.Tensor], log_field: torch.Tensor) -> torch.Tensor:
    """Leaf marginals (B, L, Q) in the probability domain, messages scaled by their largest entry, one matrix product a level.

    transitions (q, q, q): parent, left, right; a list of them, from the root, where levels differ. Fast, and right where the evidence stays
    on the grammar; underflows elsewhere.
    """
    q, depth = log_field.shape[2], log_field.shape[1].bit_length() - 1
    levels = transitions if isinstance(transitions, list) else [transitions] * depth
    to_parent = [level.permute(1, 2, 0).reshape(q * q, q).contiguous() for level in levels]
    to_left = [level.permute(0, 2, 1).reshape(q * q, q).contiguous() for level in levels]
    to_right = [level.reshape(q * q, q).contiguous() for level in levels]

    def products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2)

    up = [(log_field - log_field.amax(-1, keepdim=True)).exp()]
    for level in range(depth - 1, -1, -1):
        parent = products(up[0][:, 0::2], up[0][:, 1::2]) @ to_parent[level]
        up.insert(0, parent / parent.amax(-1, keepdim=True))
    down = torch.ones_like(up[0])
    for level in range(depth):
        left, right = up[level + 1][:, 0::2], up[level + 1][:, 1::2]
        down = torch.stack([products(down, right) @ to_left[level], products(down, left) @ to_right[level]], 2).flatten(1, 2)
        down = down / down.amax(-1, keepdim=True)
    marginals = down * up[-1]
    return marginals / marginals.sum(-1, keepdim=True)


def naive_posterior(transitions: torch.Tensor, log_field: torch.Tensor) -> torch.Tensor:
    """The same in the log domain over the dense table, one broadcast a message, as the definition reads; zeros are -inf."""
    log_m, depth = transitions.log(), log_field.shape[1].bit_length() - 1
    up = [log_field.log_softmax(-1)]
    for _ in range(depth):
        left, right = up[0][:, 0::2], up[0][:, 1::2]
        up.insert(0, (log_m + left[:, :, None, :, None] + right[:, :, None, None, :]).logsumexp((3, 4)).log_softmax(-1))
    down = torch.zeros_like(up[0])
    for below in up[1:]:
        left, right = below[:, 0::2], below[:, 1::2]
        above = log_m + down[:, :, :, None, None]
        to_left = (above + right[:, :, None, None, :]).logsumexp((2, 4))
        to_right = (above + left[:, :, None, :, None]).logsumexp((2, 3))
        down = torch.stack([to_left, to_right], 2).flatten(1, 2).log_softmax(-1)
    return (down + up[-1]).softmax(-1)


def sparse_log_posterior(rules: torch.Tensor, weights: torch.Tensor, log_field: torch.Tensor) -> torch.Tensor:
    """The same over the list of rules (R, 3): what one who knows that the table is sparse would write. Each symbol's rules are gathered,
    the shorter lists filled up with -inf.
    """
    q, depth = log_field.shape[2], log_field.shape[1].bit_length() - 1

    def lists(column: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        groups = [(rules[:, column] == symbol).nonzero()[:, 0] for symbol in range(q)]
        index = torch.nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=len(rules))
        one, other = (torch.cat([rules[:, c], rules.new_zeros(1)]).long()[index] for c in range(3) if c != column)
        return one, other, torch.cat([weights.log().to(log_field), log_field.new_full((1,), -torch.inf)])[index]

    def message(listed: tuple[torch.Tensor, ...], first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        one, other, log_w = listed
        return (first[..., one] + second[..., other] + log_w).logsumexp(-1).log_softmax(-1)

    by_parent, by_left, by_right = (lists(column) for column in range(3))
    up = [log_field.log_softmax(-1)]
    for _ in range(depth):
        up.insert(0, message(by_parent, up[0][:, 0::2], up[0][:, 1::2]))
    down = torch.zeros_like(up[0])
    for below in up[1:]:
        left, right = below[:, 0::2], below[:, 1::2]
        down = torch.stack([message(by_left, down, right), message(by_right, down, left)], 2).flatten(1, 2)
    return (down + up[-1]).softmax(-1)


def softmax_denoiser(
    x: torch.Tensor, rows: torch.Tensor, norms: torch.Tensor, scale: float, sigma: float, chunk: int = 1024
) -> torch.Tensor:
    """x0_hat (B, D) of the empirical denoiser in float32: two products a chunk of rows, an online maximum; norms: |row|^2, kept.

    The constant of a query drops out of the softmax. 1024 rows a chunk was the best of 512 .. 20000 on the machine of docs/benchmarks.md.
    """
    query, half = x * (scale / sigma**2), norms * (scale**2 / (2 * sigma**2))
    top = torch.full((len(x), 1), -torch.inf, device=x.device)
    total, sums = torch.zeros_like(top), torch.zeros_like(x)
    for y, h in zip(rows.split(chunk), half.split(chunk), strict=True):
        logits = torch.addmm(-h, query, y.T)
        higher = torch.maximum(top, logits.amax(1, keepdim=True))
        weights, kept = logits.sub_(higher).exp_(), (top - higher).exp_()
        total = total * kept + weights.sum(1, keepdim=True)
        sums.mul_(kept).addmm_(weights, y)
        top = higher
    return sums / total
