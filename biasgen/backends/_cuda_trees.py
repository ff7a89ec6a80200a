"""Trees on a CUDA device, through the functions of `native`: biasgen._cuda, or the same kernels on the host shim (tensors on the CPU)."""
import contextlib
from functools import lru_cache

import numpy as np
import torch

from biasgen.backends._log_field import refuse

NONE_REFUSED = 2**63 - 1


def tree_posterior(native, log_field, rules, weights):
    """Exact leaf marginals. log_field (B, L, Q) float32 or float64, contiguous; rules (R, 3) int16, weights (R,) float64 on the CPU:
    checked by the op.

    Returns marginals (B, L, Q) float32, log_z (B,) float64, impossible (B,) bool, on the device of log_field. Runs on the caller's current
    stream, outputs and scratch (<= 1 GiB) come from torch's allocator. Whether a sample is refused is read back, which waits for the
    stream, unless the stream is being captured; then a refused sample's marginals and log_z are NaN, and the grammar must have been used
    on this device before.
    """
    B, L, Q = log_field.shape
    device = log_field.device
    if log_field.data_ptr() % 16:
        log_field = log_field.clone()
    marginals = torch.empty((B, L, Q), dtype=torch.float32, device=device)
    log_z = torch.empty(B, dtype=torch.float64, device=device)
    impossible = torch.empty(B, dtype=torch.bool, device=device)
    refused = torch.full((1,), NONE_REFUSED, dtype=torch.int64, device=device)
    lists = rule_lists(rules, weights, Q, device)
    shape, grammar = (B, L, Q), (rules.numpy(), weights.numpy())
    scratch = torch.empty(native.tree_posterior_scratch(*shape, *grammar), dtype=torch.uint8, device=device)
    with on_device(device) as stream:
        native.tree_posterior(
            *shape, *grammar, lists.data_ptr(), log_field.data_ptr(), log_field.dtype == torch.float64, scratch.data_ptr(),
            marginals.data_ptr(), log_z.data_ptr(), impossible.data_ptr(), refused.data_ptr(), stream
        )
    raise_refused(refused, log_field)
    return marginals, log_z, impossible


def rule_lists(rules, weights, Q, device):
    """The grammar as kernels read it at run time (csrc/cuda/tree_rules.h), on the device; kept for the next call."""
    return _rule_lists(rules.numpy().tobytes(), weights.numpy().tobytes(), Q, device)


@lru_cache(maxsize=64)
def _rule_lists(rules, weights, Q, device):
    if is_capturing(device):
        raise RuntimeError("rules: a grammar's first call on a device copies it there, which cannot be captured; call once before")
    rules, weights = np.frombuffer(rules, np.int16).reshape(-1, 3), np.frombuffer(weights)
    mantissa, exponent = np.frexp(weights)
    numbers = np.stack([(2 * mantissa).astype(np.float32).view(np.int32), np.where(weights > 0, exponent - 1, 0)], 1)
    parts, begins = [], []
    for group, others in enumerate(([1, 2], [0, 2], [0, 1])):
        order = np.argsort(rules[:, group], kind="stable")
        parts.append(np.concatenate([rules[order][:, others], numbers[order]], 1))
        begins.append(group * len(rules) + np.searchsorted(rules[order, group], np.arange(Q + 1)))
    words = np.concatenate([np.concatenate(parts).ravel(), np.concatenate(begins)]).astype(np.int32)
    return torch.from_numpy(words).to(device)


def raise_refused(refused, log_field):
    """ValueError when a kernel refused a sample. Waits for the stream; says nothing while it is being captured."""
    if is_capturing(refused.device):
        return
    first = int(refused)
    if first != NONE_REFUSED:
        refuse(log_field[first].cpu().numpy(), first)


def is_capturing(device):
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@contextlib.contextmanager
def on_device(device):
    """Makes the device current; yields the handle of its current stream."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield torch.cuda.current_stream(device).cuda_stream
    else:
        yield 0
