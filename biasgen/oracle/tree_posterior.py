"""Posterior of a complete tree by the book, float64: by listing every derivation (tiny trees), and by messages in the log domain;
strings drawn from it."""
import math
from itertools import pairwise

import numpy as np


def blocks(rules, weights, level_offsets, depth):
    """[(rules, weights)] of each level from the root; level_offsets None: all rules at every level; an empty block: that above."""
    levels = []
    for start, stop in pairwise([0] + [len(rules)] * depth if level_offsets is None else level_offsets):
        levels.append((rules[start:stop], weights[start:stop]) if stop > start else levels[-1])
    return levels


def derivations(symbol, depth, rules, weights):
    """(leaves (n, s**depth), log-probabilities (n,)) of every way to derive leaves from `symbol` by the same rules at every level."""
    levels, logs = derived(symbol, blocks(rules, weights, None, depth))
    return levels[-1], logs


def derived(symbol, levels):
    """([symbols (n, s**d) of each level], log-probabilities (n,)) of every derivation from `symbol` by the blocks `levels`."""
    if not levels:
        return [np.array([[symbol]])], np.zeros(1)
    s = len(levels[0][0][0]) - 1
    found, logs = [[np.empty((0, s**d), int)] for d in range(len(levels) + 1)], [np.empty(0)]
    for (parent, *children), weight in zip(*levels[0], strict=True):
        if parent != symbol or weight == 0:
            continue
        trees, log_p = [np.empty((1, 0), int)] * len(levels), np.array([math.log(weight)])
        for child in children:
            below, more = derived(child, levels[1:])
            n, m = len(log_p), len(more)
            trees = [np.hstack([np.repeat(x, m, 0), np.tile(y, (n, 1))]) for x, y in zip(trees, below, strict=True)]
            log_p = np.repeat(log_p, m) + np.tile(more, n)
        for level, part in zip(found, [np.full((len(log_p), 1), symbol), *trees], strict=True):
            level.append(part)
        logs.append(log_p)
    return [np.vstack(level) for level in found], np.hstack(logs)


def enumerate_posterior(log_field, rules, weights, level_offsets=None, root=None, levels="leaves"):
    """marginals (B, L, Q), log_z (B,), impossible (B,) of log_field (B, L, Q), over all derivations; impossible evidence: 0, -inf, True.
    levels="all": marginals (B, nodes, Q), level by level."""
    log_field = np.asarray(log_field, np.float64)
    B, L, Q = log_field.shape
    s = len(rules[0]) - 1
    parts = [derived(a, blocks(rules, weights, level_offsets, round(math.log(L, s)))) for a in range(Q)]
    with np.errstate(divide="ignore"):
        log_root = np.log(np.full(Q, 1 / Q) if root is None else root)
    log_p = np.hstack([log_root[a] + logs for a, (_, logs) in enumerate(parts)])
    symbols = np.vstack([np.hstack(found if levels == "all" else found[-1:]) for found, _ in parts])
    leaves = symbols[:, -L:]
    marginals, log_z = np.zeros((B, symbols.shape[1], Q)), np.full(B, -np.inf)
    for b in range(B):
        joint = log_p + log_field[b, np.arange(L), leaves].sum(1)
        if joint.max() == -np.inf:
            continue
        p = np.exp(joint - joint.max())
        log_z[b] = joint.max() + math.log(p.sum())
        for i in range(symbols.shape[1]):
            marginals[b, i] = np.bincount(symbols[:, i], p, Q) / p.sum()
    return marginals, log_z, log_z == -np.inf


def tree_posterior(log_field, rules, weights, level_offsets=None, root=None):
    """The same by messages: `inside` from the leaves to the root, `outside` from the root to the leaves."""
    log_field = np.asarray(log_field, np.float64)
    Q, s = log_field.shape[2], len(rules[0]) - 1
    levels = []
    with np.errstate(divide="ignore"):
        for rows, w in blocks(rules, weights, level_offsets, round(math.log(log_field.shape[1], s))):
            levels.append((np.asarray(rows, int).T, np.log(w)))
        log_root = np.log(np.full(Q, 1 / Q) if root is None else root)

    def grouped(terms, symbol):
        return np.stack([_log_sum_exp(terms[..., symbol == a]) for a in range(Q)], -1)

    top = log_field.max(2, keepdims=True)
    top[top == -np.inf] = 0
    inside = [log_field - top]
    for (parent, *children), log_w in levels[::-1]:
        inside.append(grouped(sum(inside[-1][:, c::s][..., child] for c, child in enumerate(children)) + log_w, parent))
    mass = _log_sum_exp(inside[-1][:, 0] + log_root)
    log_z = mass + np.array([math.fsum(row) for row in top[..., 0]])
    outside = np.broadcast_to(log_root, (len(log_field), 1, Q))
    for ((parent, *children), log_w), below in zip(levels, inside[-2::-1], strict=True):
        heard = [
            grouped(
                outside[..., parent] + sum(below[:, i::s][..., x] for i, x in enumerate(children) if i != c) + log_w, children[c]
            )
            for c in range(s)
        ]
        outside = np.stack(heard, 2).reshape(below.shape)
    impossible = mass == -np.inf
    marginals = np.exp(outside + inside[0] - np.where(impossible, 0, mass)[:, None, None])
    return marginals, log_z, impossible


def draw_strings(log_field, rules, weights, u):
    """strings (B, n, L) from the posterior of log_field (B, L, Q), and margins (B, n): the least distance of a number that was used from a
    step of its distribution function. u (B, n, L) in (0, 1): number 0 for the root, 1 + i for node i in level order. Evidence: possible.
    """
    B, L, Q = log_field.shape
    rules = np.asarray(rules, int)
    with np.errstate(divide="ignore"):
        log_w = np.log(weights)
    inside = [np.asarray(log_field, np.float64)]
    while inside[0].shape[1] > 1:
        terms = inside[0][:, 0::2][..., rules[:, 1]] + inside[0][:, 1::2][..., rules[:, 2]] + log_w
        inside.insert(0, np.stack([_log_sum_exp(terms[..., rules[:, 0] == p]) for p in range(Q)], -1))
    strings, margins = np.zeros((B, u.shape[1], L), int), np.ones(u.shape[:2])
    for b, k in np.ndindex(margins.shape):

        def pick(number, logs, b=b, k=k):
            p = np.exp(logs - _log_sum_exp(logs))
            steps = np.cumsum(p)
            margins[b, k] = min(margins[b, k], abs(u[b, k, number] - steps[p > 0][:-1]).min(initial=1.0))
            return np.flatnonzero(p > 0)[min((u[b, k, number] > steps[p > 0]).sum(), (p > 0).sum() - 1)]

        nodes = [pick(0, inside[0][b, 0])]
        for below in inside[1:]:
            width, children = len(nodes), []
            for i, p in enumerate(nodes):
                own = np.flatnonzero(rules[:, 0] == p)
                logs = below[b, 2 * i, rules[own, 1]] + below[b, 2 * i + 1, rules[own, 2]] + log_w[own]
                children += list(rules[own[pick(width + i, logs)], 1:])
            nodes = children
        strings[b, k] = nodes
    return strings, margins


def _log_sum_exp(x):
    """Over the last axis; -inf for no term and for none above -inf."""
    top = x.max(-1, initial=-np.inf)
    shift = np.where(top == -np.inf, 0, top)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - shift[..., None]).sum(-1)) + shift
