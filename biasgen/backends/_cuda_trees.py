"""Trees on a CUDA device, through the functions of `native`: biasgen._cuda, or the same kernels on the host shim (tensors on the CPU).

All run on the caller's current stream; outputs and scratch come from torch's allocator. Whether a sample is refused is read back, which
waits for the stream, unless the stream is being captured: then what belongs to a refused sample is NaN, and grammar and levels must have
been used on the device before.
"""
import contextlib
from functools import lru_cache

import numpy as np
import torch

from biasgen.backends._log_field import refuse
from biasgen.backends._mode import is_capturing, used_here
from biasgen.results import TreePosterior

NONE_REFUSED = 2**63 - 1
_READ_BY_GRAPHS = {}
_RULE_LISTS = "rule lists of cuda"   # in Tree.packed
# TreeStep of csrc/cuda/tree_trajectory.h
LEVEL = np.dtype(
    [("gamma", "f8"), ("one_over_variance", "f8"), ("log_norm", "f8"), ("c0", "f4"), ("ct", "f4"), ("std", "f4"), ("t", "u4")]
)


def refusal(case):
    """Why the kernels cannot take a tree or give those levels, (tree, levels), or None."""
    tree, levels = case
    if tree.arity != 2:
        return f"its kernels take rules with two children, got {tree.arity}"
    if not tree.shared:
        return "its kernels take the same rules at every level"
    if tree.factorized:
        return "its kernels take whole trees, got channels"
    if not bool((tree.root == 1 / tree.Q).all()):
        return "its kernels take a uniform root, at temperature 1"
    if tree.L > 1024 or tree.Q > 64:
        return f"its kernels take at most 1024 leaves and 64 symbols, got {tree.L} and {tree.Q}"
    if levels != "leaves":
        return f"its kernels give the marginals of leaves, got levels={levels!r}"
    return None


def tree_posterior(native, log_field, tree):
    """TreePosterior of the leaves. log_field (B, L, Q) float32 or float64, contiguous; tree: what
    `refusal` lets through.

    Results are on the device of log_field. Scratch: none for the paper's grammar nor where the
    messages of a sample, (3 L - 2) Q 8 bytes, fit in 48 KiB beside the rules; else at most 1 GiB.
    """
    marginals = torch.empty(log_field.shape, dtype=torch.float32, device=log_field.device)
    return TreePosterior(marginals, *_posterior(native, log_field, tree, marginals=marginals))


def tree_posterior_sample(native, log_field, tree, n, seed):
    """n strings from each posterior: (B, n, L) int8, -1 where the evidence is impossible. Arguments as for tree_posterior.

    String k of row b draws the numbers of sample b, step k, purpose POSTERIOR of ops/philox.py: 0 for the root, 1 + i for node i in level
    order, by inverse distribution function over the rules in their order.
    """
    B, L, _ = log_field.shape
    strings = torch.empty((B, n, L), dtype=torch.int8, device=log_field.device)
    _posterior(native, log_field, tree, n=n, seed=seed, strings=strings)
    return strings


def _posterior(native, log_field, tree, marginals=None, n=0, seed=0, strings=None):
    """One launch; returns log_z, impossible."""
    B, L, Q = log_field.shape
    device, grammar = log_field.device, tree.arrays
    if log_field.data_ptr() % 16:
        log_field = log_field.clone()
    log_z = torch.empty(B, dtype=torch.float64, device=device)
    impossible = torch.empty(B, dtype=torch.bool, device=device)
    refused = _none_refused(device)
    if _RULE_LISTS not in tree.packed:
        tree.packed[_RULE_LISTS] = _rule_lists(grammar.rules, grammar.weights, Q)
    lists = _constant(tree.packed[_RULE_LISTS], device)
    scratch = torch.empty(
        native.tree_posterior_scratch(B, L, Q, grammar, _address(strings)),
        dtype=torch.uint8,
        device=device,
    )
    with _on(device) as stream:
        native.tree_posterior(
            B,
            L,
            Q,
            grammar,
            _address(lists),
            _address(log_field),
            log_field.dtype == torch.float64,
            _address(scratch),
            _address(marginals),
            _address(log_z),
            _address(impossible),
            _address(refused),
            n,
            seed,
            _address(strings),
            stream,
        )
    first = _first_refused(refused)
    if first is not None:
        refuse(log_field[first].cpu().numpy(), first)
    return log_z, impossible


def _rule_lists(rules, weights, Q):
    """The grammar as kernels read it at run time: csrc/cuda/tree_rules.h."""
    mantissa, exponent = np.frexp(weights)
    numbers = np.stack([(2 * mantissa).astype(np.float32).view(np.int32), np.where(weights > 0, exponent - 1, 0)], 1)
    parts, begins = [], []
    for group, others in enumerate(([1, 2], [0, 2], [0, 1])):
        order = np.argsort(rules[:, group], kind="stable")
        parts.append(np.concatenate([rules[order][:, others], numbers[order]], 1))
        begins.append(group * len(rules) + np.searchsorted(rules[order, group], np.arange(Q + 1)))
    return np.concatenate([np.concatenate(parts).ravel(), np.concatenate(begins)]).astype(np.int32).tobytes()


def _constant(content, device):
    """Bytes on the device, kept for the next call; for good once a graph reads them."""
    constant = _copied(content, torch.device(device.type, torch.cuda.current_device()) if device == torch.device("cuda") else device)
    if is_capturing(device):
        _READ_BY_GRAPHS[constant.data_ptr()] = constant
    used_here(constant)
    return constant


@lru_cache(maxsize=64)
def _copied(content, device):
    if is_capturing(device):
        raise RuntimeError("backend: cuda copies a grammar to the device at its first call, which cannot be captured; call once before")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)


def tree_trajectory(
    native,
    tree,
    levels,
    *,
    n,
    device,
    seed=0,
    offset=0,
    x=None,
    tokens=None,
    start=(0.0, 1.0, 0, 0),
    noise=None,
    outputs=("strings",),
):
    """Reverse process of the paper's grammar with its exact denoiser, in one launch; ValueError for another grammar.

    levels: (S,) array of LEVEL, one a step, on the CPU. Rows begin at x (n, 16, 6) float32, else at start[0] * one_hot(tokens (n, 16) int8,
    or nothing) + start[1] * noise of step start[2], purpose start[3]. noise: (S, n, 16, 6) float32 in place of the counter-based one of
    sample offset + row and the step's t.

    Returns {name: tensor} of the outputs asked for: end (n, 16, 6) float32, x after the last step; strings (n, 16) int8, its arg-max; and
    of the last step x0_hat (n, 16, 6) float32, score (n, 16, 6) and log_density (n,) float64 of p(x_t).
    """
    if not len(levels):
        raise ValueError("levels: want at least one step, got none")
    shapes = {
        "end": ((n, 16, 6), torch.float32), "strings": ((n, 16), torch.int8), "x0_hat": ((n, 16, 6), torch.float32),
        "score": ((n, 16, 6), torch.float64), "log_density": ((n,), torch.float64),
    }
    made = {name: torch.empty(shapes[name][0], dtype=shapes[name][1], device=device) for name in outputs}
    inputs = [None if part is None else _aligned(part) for part in (x, tokens, noise)]
    refused = _none_refused(device)
    table = _constant(levels.tobytes(), device)
    with _on(device) as stream:
        native.tree_trajectory(
            n,
            len(levels),
            seed,
            offset,
            tree.arrays,
            _address(table),
            *map(_address, inputs[:2]),
            *start,
            _address(inputs[2]),
            *(_address(made.get(name)) for name in shapes),
            _address(refused),
            stream,
        )
    first = _first_refused(refused)
    if first is not None:
        raise ValueError(f"x: want finite numbers whose fields spread over less than 2^30 bits, not so in sample {first}")
    return made


def tree_sample(native, tree, n, *, device, seed=0, offset=0):
    """(n, L) int8 strings of a grammar whose rules are sorted by parent: equal to
    TreeGrammar.sample."""
    rules, weights, Q, L = tree.arrays.rules, tree.arrays.weights, tree.Q, tree.L
    ends = np.searchsorted(rules[:, 0], np.arange(Q), side="right")
    cumulative = np.concatenate([np.cumsum(part) for part in np.split(weights, ends[:-1])])
    cumulative[ends - 1] = np.inf
    parts = np.concatenate([[0], ends]).astype(np.int32), rules[:, 1:].astype(np.int8), cumulative
    begin, children, cumulative = (_constant(part.tobytes(), device) for part in parts)
    strings = torch.empty((n, L), dtype=torch.int8, device=device)
    with _on(device) as stream:
        native.tree_sample(
            n,
            L,
            Q,
            seed,
            offset,
            _address(begin),
            _address(children),
            _address(cumulative),
            _address(strings),
            stream,
        )
    return strings


def _address(tensor):
    return 0 if tensor is None else tensor.data_ptr()


def _aligned(tensor):
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def _none_refused(device):
    return torch.full((1,), NONE_REFUSED, dtype=torch.int64, device=device)


def _first_refused(refused):
    """The first sample that a kernel refused, or None; None, too, while the stream is being captured."""
    if is_capturing(refused.device):
        return None
    first = int(refused)
    return None if first == NONE_REFUSED else first


@contextlib.contextmanager
def _on(device):
    """Makes the device current; yields the handle of its current stream."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield torch.cuda.current_stream(device).cuda_stream
    else:
        yield 0
