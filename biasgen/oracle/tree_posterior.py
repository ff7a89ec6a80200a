"""Posterior of a complete tree by the book, float64: by listing every derivation (tiny trees), and by messages in the log domain;
strings drawn from it. Grammars and evidence as the ops take them, unchecked."""
import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Derivations(NamedTuple):
    """n of them. symbols: [(n, nodes)] of each level that has nodes, from the root; rules: [(n, nodes)] of each level that is expanded, by
    their number in its block; log_p (n,)."""

    symbols: list
    rules: list
    log_p: np.ndarray


def blocks(rules, weights, level_offsets, depth):
    """[(rules, weights)] of each level from the root; level_offsets None: all rules at every level; an empty block: that above."""
    levels = []
    for start, stop in pairwise([0] + [len(rules)] * depth if level_offsets is None else level_offsets):
        levels.append((rules[start:stop], weights[start:stop]) if stop > start else levels[-1])
    return levels


def derivations(symbol, depth, rules, weights):
    """(leaves (n, s**depth), log-probabilities (n,)) of every way to derive leaves from `symbol` by the same rules at every level."""
    found = derived(symbol, blocks(rules, weights, None, depth))
    return found.symbols[-1], found.log_p


def derived(symbol, levels):
    """Derivations from `symbol` by the blocks `levels`."""
    if not levels:
        return Derivations([np.array([[symbol]])], [], np.zeros(1))
    ways = []
    for number, ((parent, *children), weight) in enumerate(zip(*levels[0], strict=True)):
        if parent == symbol and weight > 0:
            below = _side_by_side([derived(child, levels[1:]) for child in children])
            n = len(below.log_p), 1
            symbols, rules = [np.full(n, symbol), *below.symbols], [np.full(n, number), *below.rules]
            ways.append(Derivations(symbols, rules, below.log_p + math.log(weight)))
    return _either(ways)


def every_derivation(depth, rules, weights, level_offsets=None, root=None, channels=None):
    """Derivations of a grammar; channels (nodes, Q, Q): of the tree whose nodes of one level hang on the root, without levels between."""
    Q = int(np.max(np.asarray(rules)[:, 0])) + 1
    levels, root = blocks(rules, weights, level_offsets, depth), np.full(Q, 1 / Q) if root is None else root
    hung = 0 if channels is None else len(channels)
    trees = [derived(a, levels[_depth_of(hung, rules) :]) for a in range(Q)]
    ways = []
    for a in np.flatnonzero(root):
        way = trees[a]
        if hung:
            nodes = [_either([trees[c]._replace(log_p=trees[c].log_p + math.log(p[a, c])) for c in np.flatnonzero(p[a])]) for p in channels]
            below = _side_by_side(nodes)
            way = below._replace(symbols=[np.full((len(below.log_p), 1), a), *below.symbols])
        ways.append(way._replace(log_p=way.log_p + math.log(root[a])))
    return _either(ways)


def _depth_of(nodes, rules):
    return round(math.log(nodes, len(rules[0]) - 1)) if nodes else 0


def _side_by_side(trees):
    """Every combination of a derivation of each: their nodes side by side."""
    symbols, rules, log_p = trees[0]
    for more in trees[1:]:
        n, m = len(log_p), len(more.log_p)
        symbols, rules = (
            [np.hstack([np.repeat(x, m, 0), np.tile(y, (n, 1))]) for x, y in zip(left, right, strict=True)]
            for left, right in ((symbols, more.symbols), (rules, more.rules))
        )
        log_p = np.repeat(log_p, m) + np.tile(more.log_p, n)
    return Derivations(symbols, rules, log_p)


def _either(ways):
    symbols, rules = ([np.vstack(level) for level in zip(*(way[part] for way in ways), strict=True)] for part in (0, 1))
    return Derivations(symbols, rules, np.hstack([way.log_p for way in ways]))


def evidence(log_field, tokens, Q):
    """The log-field (..., L, Q) float64 that tokens (..., L) say, -1 where nobody saw the leaf: there log_field, where there is one."""
    if tokens is None:
        return np.asarray(log_field, np.float64)
    tokens = np.asarray(tokens)[..., None]
    masked = np.zeros((*tokens.shape[:-1], Q)) if log_field is None else np.asarray(log_field, np.float64)
    return np.where(tokens == -1, masked, np.where(tokens == np.arange(Q), 0.0, -np.inf))


def _weighed(log_field, rules, weights, level_offsets, root, tokens, channels, temperature):
    """Derivations, and the logarithm (B, n) of what each weighs."""
    field = evidence(log_field, tokens, int(np.max(np.asarray(rules)[:, 0])) + 1)
    L = field.shape[1]
    found = every_derivation(round(math.log(L, len(rules[0]) - 1)), rules, weights, level_offsets, root, channels)
    joint = found.log_p + np.stack([sum(row[i, found.symbols[-1][:, i]] for i in range(L)) for row in field])
    return found, joint / temperature


def enumerate_posterior(
    log_field, rules, weights, level_offsets=None, root=None, levels="leaves", *, tokens=None, channels=None, temperature=1.0
):
    """marginals (B, L, Q), log_z (B,), impossible (B,) of evidence (B, L, Q), over all derivations; impossible evidence: 0, -inf, True.
    levels="all": marginals (B, nodes, Q), level by level; "rules": then also [(B, nodes, rules)] of each level that is expanded."""
    found, joint = _weighed(log_field, rules, weights, level_offsets, root, tokens, channels, temperature)
    log_z = _log_sum_exp(joint)
    p = np.exp(joint - np.where(log_z == -np.inf, 0, log_z)[:, None])

    def shares(chosen, count):
        """(B, nodes, count) of the choices (n, nodes)."""
        return np.stack([np.stack([np.bincount(column, row, count) for column in chosen.T]) for row in p])

    shown = found.symbols[-1:] if levels == "leaves" else found.symbols
    results = shares(np.hstack(shown), int(np.max(np.asarray(rules)[:, 0])) + 1), log_z, log_z == -np.inf
    if levels != "rules":
        return results
    above = len(found.rules)   # how many levels are expanded
    own = blocks(rules, weights, level_offsets, round(math.log(found.symbols[-1].shape[1], len(rules[0]) - 1)))
    return *results, [shares(used, len(block[0])) for used, block in zip(found.rules, own[len(own) - above :], strict=True)]


def enumerate_map(log_field, rules, weights, level_offsets=None, root=None, *, tokens=None, channels=None):
    """log_p (B,) of the most probable derivation, and for each row the leaves (n, L) of all that reach it to a relative 1e-9."""
    found, joint = _weighed(log_field, rules, weights, level_offsets, root, tokens, channels, 1.0)
    best = joint.max(1)
    return best, [
        found.symbols[-1][(row >= top - 1e-9 * (1 + abs(top))) & (row > -np.inf)] for row, top in zip(joint, best, strict=True)
    ]


def enumerate_strings(log_field, rules, weights, level_offsets=None, root=None, *, tokens=None, channels=None, temperature=1.0):
    """The distinct strings (n, L) of a grammar, in order, and their posterior probabilities (B, n)."""
    found, joint = _weighed(log_field, rules, weights, level_offsets, root, tokens, channels, temperature)
    strings, which = np.unique(found.symbols[-1], axis=0, return_inverse=True)
    p = np.exp(joint - joint.max(1, keepdims=True))
    p = np.stack([np.bincount(which.ravel(), row, len(strings)) for row in p])
    return strings, p / p.sum(1, keepdims=True)


def tree_posterior(
    log_field, rules, weights, level_offsets=None, root=None, levels="leaves", *, tokens=None, channels=None, temperature=1.0
):
    """enumerate_posterior by messages: `inside` from the leaves to the root, `outside` from the root to the leaves."""
    Q = int(np.max(np.asarray(rules)[:, 0])) + 1
    field = evidence(log_field, tokens, Q) / temperature
    tables, log_root, log_channels = _logs(field.shape[1], rules, weights, level_offsets, root, channels, temperature)
    top = field.max(2, keepdims=True)
    top[top == -np.inf] = 0
    inside = _inside(field - top, tables, Q)
    told = None if log_channels is None else _log_sum_exp(log_channels + inside[0][:, :, None])
    heard = (inside[0][:, 0] if told is None else told.sum(1)) + log_root
    mass = _log_sum_exp(heard)
    log_z = mass + np.array([math.fsum(row) for row in top[..., 0]])
    if told is None:
        outside = [np.broadcast_to(log_root, inside[0].shape)]
    else:
        others = np.stack([np.delete(told, j, 1).sum(1) for j in range(told.shape[1])], 1) + log_root
        outside = [_log_sum_exp((log_channels + others[..., None]).swapaxes(2, 3))]
    ruled = []
    for ((parent, *children), log_w), below in zip(tables, inside[1:], strict=True):
        said = [below[:, i :: len(children)][..., x] for i, x in enumerate(children)]
        above = outside[-1][..., parent] + log_w
        heard_by = [_grouped(above + sum(said[:c] + said[c + 1 :]), x, Q) for c, x in enumerate(children)]
        ruled.append(above + sum(said))
        outside.append(np.stack(heard_by, 2).reshape(below.shape))
    beliefs = [up + down for up, down in zip(inside, outside, strict=True)]
    if told is not None:
        beliefs.insert(0, heard[:, None])
    impossible = mass == -np.inf

    def shares(logs):
        return np.exp(logs - np.where(impossible, 0, mass)[:, None, None])

    results = shares(beliefs[-1] if levels == "leaves" else np.concatenate(beliefs, 1)), log_z, impossible
    return (*results, [shares(logs) for logs in ruled]) if levels == "rules" else results


def _logs(L, rules, weights, level_offsets, root, channels, temperature):
    """[((1 + s, R) columns, log-weights)] of the levels that are expanded, log-prior, log-channels or None, all at `temperature`."""
    rules, Q = np.asarray(rules, int), int(np.max(np.asarray(rules)[:, 0])) + 1
    hung = 0 if channels is None else len(channels)
    with np.errstate(divide="ignore"):
        levels = blocks(rules, np.log(weights) / temperature, level_offsets, round(math.log(L, rules.shape[1] - 1)))
        log_root = np.log(np.full(Q, 1 / Q) if root is None else root) / temperature
        log_channels = np.log(channels) / temperature if hung else None
    return [(rows.T, log_w) for rows, log_w in levels[_depth_of(hung, rules) :]], log_root, log_channels


def _inside(leaves, tables, Q):
    """Messages (B, nodes, Q) of every level from that of the first table to the leaves."""
    inside = [leaves]
    for (parent, *children), log_w in tables[::-1]:
        said = sum(inside[0][:, c :: len(children)][..., child] for c, child in enumerate(children))
        inside.insert(0, _grouped(said + log_w, parent, Q))
    return inside


def draw_strings(log_field, rules, weights, u, level_offsets=None, root=None, *, channels=None, temperature=1.0):
    """strings (B, n, L) from the posterior of log_field (B, L, Q), and margins (B, n): the least distance of a number that was used from a
    step of its distribution function. u (B, n, count) in (0, 1): number 0 for the root, then in level order one for each node: with
    channels first those that hang on the root, then each that is expanded. Evidence: possible.
    """
    B, L, Q = log_field.shape
    tables, log_root, log_channels = _logs(L, rules, weights, level_offsets, root, channels, temperature)
    inside = _inside(np.asarray(log_field, np.float64) / temperature, tables, Q)
    strings, margins = np.zeros((B, u.shape[1], L), int), np.ones(u.shape[:2])
    for b, k in np.ndindex(margins.shape):
        numbers = iter(u[b, k])

        def pick(logs, b=b, k=k, numbers=numbers):
            p, number = np.exp(logs - _log_sum_exp(logs)), next(numbers)
            steps = np.cumsum(p)
            margins[b, k] = min(margins[b, k], abs(number - steps[p > 0][:-1]).min(initial=1.0))
            return np.flatnonzero(p > 0)[min((number > steps[p > 0]).sum(), (p > 0).sum() - 1)]

        first = inside[0][b]
        if log_channels is None:
            nodes = [pick(log_root + first[0])]
        else:
            r = pick(log_root + _log_sum_exp(log_channels + first[:, None]).sum(0))
            nodes = [pick(channel[r] + message) for channel, message in zip(log_channels, first, strict=True)]
        for ((parent, *children), log_w), below in zip(tables, inside[1:], strict=True):
            replaced = []
            for i, p in enumerate(nodes):
                own = np.flatnonzero(parent == p)
                said = sum(below[b, len(children) * i + c, child[own]] for c, child in enumerate(children))
                rule = own[pick(said + log_w[own])]
                replaced += [child[rule] for child in children]
            nodes = replaced
        strings[b, k] = nodes
    return strings, margins


def _grouped(terms, symbol, Q):
    return np.stack([_log_sum_exp(terms[..., symbol == a]) for a in range(Q)], -1)


def _log_sum_exp(x):
    """Over the last axis; -inf for no term and for none above -inf."""
    top = x.max(-1, initial=-np.inf)
    shift = np.where(top == -np.inf, 0, top)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - shift[..., None]).sum(-1)) + shift
