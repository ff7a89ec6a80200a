"""Posteriors of trees in plain torch, in the log domain in float64, sparse over the rules; on any device."""
import math
from itertools import pairwise

import torch

from biasgen.backends._log_field import MAX_SPREAD, refuse


def tree_posterior(log_field, rules, weights, level_offsets, root, levels, max_memory):
    """Exact marginals, in blocks whose temporaries take about max_memory bytes.

    log_field (B, L, Q) float32 or float64; rules (R, 1 + s) int16, weights (R,) float64, level_offsets (depth + 1,) int64, root (Q,)
    float64 on the CPU, levels "leaves" or "all": checked by the op. Returns marginals (B, L, Q) float32, or (B, nodes, Q) of all nodes,
    level by level; log_z (B,) float64, impossible (B,) bool, on the device of log_field.
    """
    B, L, Q = log_field.shape
    device, s = log_field.device, rules.shape[1] - 1
    tables = _tables(rules, weights, level_offsets, range(s + 1), Q, device)
    log_root = root.log().to(device)
    block = max(1, max_memory // (8 * 4 * L * max(Q, _widest(tables) // s)))
    nodes = L if levels == "leaves" else (s * L - 1) // (s - 1)
    out = (
        torch.empty((B, nodes, Q), dtype=torch.float32, device=device),
        torch.empty(B, dtype=torch.float64, device=device),
        torch.empty(B, dtype=torch.bool, device=device),
    )
    for start in range(0, B, block):
        field = log_field[start : start + block].double()
        _check_field(field, start)
        for whole, part in zip(out, _posterior(field, tables, log_root, levels), strict=True):
            whole[start : start + block] = part
    return out


def tree_posterior_sample(log_field, rules, weights, level_offsets, root, n, numbers, max_memory):
    """(B, n, L) strings from the posteriors, int8 (int16 where Q > 127), -1 where the evidence is impossible; blocks as in tree_posterior.

    numbers(start, stop): (stop - start, n, L) float64 in (0, 1), of rows start..stop.
    """
    B, L, Q = log_field.shape
    device, s = log_field.device, rules.shape[1] - 1
    tables = _tables(rules, weights, level_offsets, (0,), Q, device)
    log_root = root.log().to(device)
    longest = max(log_w.shape[1] for ((_, log_w),) in tables)
    block = max(1, max_memory // (8 * 4 * L * max(Q, _widest(tables) // s, max(n, 1) * longest)))
    strings = torch.empty((B, n, L), dtype=torch.int8 if Q <= 127 else torch.int16, device=device)
    for start in range(0, B, block):
        field = log_field[start : start + block].double()
        _check_field(field, start)
        strings[start : start + block] = _draw(field, tables, log_root, numbers(start, start + len(field)))
    return strings


def _tables(rules, weights, level_offsets, columns, Q, device):
    """For each level, for each of `columns`: the rules grouped by it (see _rules_of)."""
    tables = []
    for start, stop in pairwise(level_offsets.tolist()):
        block = slice(start, stop)
        tables.append([_rules_of(rules[block], weights[block], c, Q, device) for c in columns] if stop > start else tables[-1])
    return tables


def _widest(tables):
    return max(log_w.numel() for level in tables for _, log_w in level)


def _rules_of(rules, weights, symbol, Q, device):
    """Rules grouped by the symbol in column `symbol`: ([each other column] (Q, K), log-weights (Q, K)), K the longest group; shorter ones
    are filled up with log-weight -inf."""
    others = [column for column in range(rules.shape[1]) if column != symbol]
    groups = [(rules[:, symbol] == s).nonzero()[:, 0] for s in range(Q)]
    shape = Q, max(len(group) for group in groups)
    columns = [torch.zeros(shape, dtype=torch.long) for _ in others]
    log_w = torch.full(shape, -math.inf, dtype=torch.float64)
    for s, group in enumerate(groups):
        for column, other in zip(columns, others, strict=True):
            column[s, : len(group)] = rules[group, other].long()
        log_w[s, : len(group)] = weights[group].log()
    return [column.to(device) for column in columns], log_w.to(device)


def _combine(table, others):
    """(..., Q) message: log of the sum over each symbol's rules of the others' entries and the weight. No +inf occurs, so no NaN."""
    columns, log_w = table
    terms = log_w
    for message, column in zip(others, columns, strict=True):
        terms = terms + message[..., column]
    return torch.logsumexp(terms, -1)


def _upward(leaves, tables):
    """Messages of every level, the root's first. Leaf messages (b, L, Q)."""
    inside = [leaves]
    for by_parent, *_ in tables[::-1]:
        inside.insert(0, _combine(by_parent, _siblings(inside[0], len(by_parent[0]))))
    return inside


def _siblings(messages, s):
    """[(b, n / s, Q) messages of the first children, of the second ...] of (b, n, Q)."""
    return [messages[:, c::s] for c in range(s)]


def _posterior(field, tables, log_root, levels):
    """marginals, log_z, impossible of one block, float64."""
    top = field.amax(2, keepdim=True)
    top = torch.where(top == -math.inf, 0.0, top)
    inside = _upward(field - top, tables)
    log_z = torch.logsumexp(inside[0][:, 0] + log_root, -1)
    outside = [log_root.expand_as(inside[0])]
    for (_, *by_child), below in zip(tables, inside[1:], strict=True):
        children = _siblings(below, len(by_child))
        heard = [_combine(table, [outside[-1], *children[:c], *children[c + 1 :]]) for c, table in enumerate(by_child)]
        outside.append(torch.stack(heard, 2).flatten(1, 2))
    shown = slice(None) if levels == "all" else slice(-1, None)
    belief = torch.cat([above + below for above, below in zip(outside[shown], inside[shown], strict=True)], 1)
    total = torch.logsumexp(belief, -1, keepdim=True)
    marginals = torch.where(total == -math.inf, 0.0, (belief - total).exp())
    marginals = torch.where(marginals < 2.0**-126, 0.0, marginals)
    return marginals, log_z + _sum(top[..., 0]), log_z == -math.inf


def _draw(field, tables, log_root, u):
    """(b, n, L) strings of one block, from the root down; u (b, n, L): number 0 for the root, 1 + i for node i in level order."""
    inside = _upward(field, tables)
    nodes = _pick((inside[0] + log_root).expand(-1, u.shape[1], -1), u[..., 0])[..., None]
    used = 1
    for ((columns, log_w),), below in zip(tables, inside[1:], strict=True):
        own = [column[nodes] for column in columns]   # (b, n, nodes, rules)
        logs, width = log_w[nodes], nodes.shape[2]
        for messages, column in zip(_siblings(below, len(columns)), own, strict=True):
            logs = logs + messages[:, None].expand(-1, u.shape[1], -1, -1).gather(3, column)
        rule = _pick(logs, u[..., used : used + width])[..., None]
        nodes = torch.cat([column.gather(3, rule) for column in own], 3).flatten(2)
        used += width
    impossible = torch.logsumexp(inside[0][:, 0] + log_root, -1) == -math.inf
    return torch.where(impossible[:, None, None], -1, nodes)


def _pick(logs, u):
    """The first place over the last axis of `logs` at which the running share reaches u < 1: never one without a share."""
    top = logs.amax(-1, keepdim=True)
    reached = (logs - torch.where(top == -math.inf, 0.0, top)).exp().cumsum(-1)
    return (u[..., None] * reached[..., -1:] > reached).sum(-1)


def _sum(values):
    """(B,) sums of (B, L) float64, L <= 4096, right although large values cancel: multiples of 2^-40 of the largest add up exactly."""
    _, exponent = values.abs().amax(1, keepdim=True).frexp()
    unit = torch.ldexp(torch.ones_like(values[:, :1]), exponent.clamp(min=-900) - 40)  # not 0 where all values are denormals
    whole = (values / unit).round() * unit
    return whole.sum(1) + (values - whole).sum(1)


def _check_field(field, start):
    """ValueError for the first sample of a block with NaN, +inf or too large a spread; start: its number."""
    finite = field.isfinite()
    high = torch.where(finite, field, -math.inf).amax(2)
    low = torch.where(finite, field, math.inf).amin(2)
    spread = torch.where(high < low, 0.0, high - low).sum(1) / math.log(2)
    wrong = (field.isnan() | (field == math.inf)).any(2).any(1) | ~(spread < MAX_SPREAD)
    if wrong.any():
        sample = int(wrong.nonzero()[0])
        refuse(field[sample].cpu().numpy(), start + sample)
