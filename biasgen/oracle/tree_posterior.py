"""Posterior of a complete binary tree by the book, float64: by listing every derivation (tiny trees), and by messages in the log domain;
strings drawn from it."""
import math

import numpy as np


def derivations(symbol, depth, rules, weights):
    """(leaves (n, 2**depth), log-probabilities (n,)) of every way to derive leaves from `symbol`."""
    if depth == 0:
        return np.array([[symbol]]), np.zeros(1)
    leaves, logs = [np.empty((0, 2**depth), int)], [np.empty(0)]
    for (parent, left, right), weight in zip(rules, weights, strict=True):
        if parent != symbol or weight == 0:
            continue
        x, log_x = derivations(left, depth - 1, rules, weights)
        y, log_y = derivations(right, depth - 1, rules, weights)
        leaves.append(np.hstack([np.repeat(x, len(y), 0), np.tile(y, (len(x), 1))]))
        logs.append(math.log(weight) + np.repeat(log_x, len(y)) + np.tile(log_y, len(x)))
    return np.vstack(leaves), np.hstack(logs)


def enumerate_posterior(log_field, rules, weights):
    """marginals (B, L, Q), log_z (B,), impossible (B,) of log_field (B, L, Q), over all derivations; impossible evidence: 0, -inf, True."""
    log_field = np.asarray(log_field, np.float64)
    B, L, Q = log_field.shape
    parts = [derivations(root, L.bit_length() - 1, rules, weights) for root in range(Q)]
    leaves, log_p = np.vstack([x for x, _ in parts]), np.hstack([p for _, p in parts]) - math.log(Q)
    marginals, log_z = np.zeros((B, L, Q)), np.full(B, -np.inf)
    for b in range(B):
        joint = log_p + log_field[b, np.arange(L), leaves].sum(1)
        if joint.max() == -np.inf:
            continue
        p = np.exp(joint - joint.max())
        log_z[b] = joint.max() + math.log(p.sum())
        for i in range(L):
            marginals[b, i] = np.bincount(leaves[:, i], p, Q) / p.sum()
    return marginals, log_z, log_z == -np.inf


def tree_posterior(log_field, rules, weights):
    """The same by messages: `inside` from the leaves to the root, `outside` from the root to the leaves."""
    log_field = np.asarray(log_field, np.float64)
    Q = log_field.shape[2]
    parent, left, right = np.asarray(rules, int).T
    with np.errstate(divide="ignore"):
        log_w = np.log(weights)

    def grouped(terms, symbol):
        return np.stack([_log_sum_exp(terms[..., symbol == s]) for s in range(Q)], -1)

    top = log_field.max(2, keepdims=True)
    top[top == -np.inf] = 0
    inside = [log_field - top]
    while inside[-1].shape[1] > 1:
        x, y = inside[-1][:, 0::2], inside[-1][:, 1::2]
        inside.append(grouped(x[..., left] + y[..., right] + log_w, parent))
    root = _log_sum_exp(inside[-1][:, 0])
    log_z = root + np.array([math.fsum(row) for row in top[..., 0]]) - math.log(Q)
    outside = np.zeros((len(log_field), 1, Q))
    for below in inside[-2::-1]:
        x, y = below[:, 0::2], below[:, 1::2]
        to_left = grouped(outside[..., parent] + y[..., right] + log_w, left)
        to_right = grouped(outside[..., parent] + x[..., left] + log_w, right)
        outside = np.stack([to_left, to_right], 2).reshape(below.shape)
    impossible = root == -np.inf
    marginals = np.exp(outside + inside[0] - np.where(impossible, 0, root)[:, None, None])
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
