"""Posteriors of trees in plain torch, in the log domain in float64, sparse over the rules; on any device."""
import math
from typing import NamedTuple

import torch

from biasgen.backends._log_field import MAX_SPREAD, refuse
from biasgen.results import TreePosterior


def tree_posterior(evidence, tree, levels, max_memory):
    """What `levels` asks for, TreePosterior.flat, on the device of the evidence, in blocks whose
    temporaries take about max_memory bytes.

    evidence (B, L, Q) float32 or float64, or tokens (B, L) integers, -1 where masked; tree:
    biasgen.ops.tree.Tree."""
    B, device = len(evidence), evidence.device
    tables = _tables(tree, range(tree.arity + 1), device)
    root, channels = tree.root.log().to(device), tree.channels.log().to(device)
    wanted = TreePosterior.flat(tree, levels)
    out = {
        name: torch.empty((B, *shape), dtype=getattr(torch, dtype), device=device)
        for name, (dtype, shape) in wanted.items()
    }
    for start, field in _blocks(evidence, tree.Q, _wide(tree, tables), max_memory):
        found = _posterior(field, tables, root, channels, levels)
        for name, whole in out.items():
            part = whole[start : start + len(field)]
            part[:] = found[name].reshape(part.shape)
    return TreePosterior.of(out)


def tree_posterior_sample(evidence, tree, n, numbers, max_memory):
    """(B, n, L) strings from the posteriors, int8 (int16 where Q > 127), -1 where the evidence is impossible; blocks as in tree_posterior.

    numbers(start, stop): (stop - start, n, tree.draws) float64 in (0, 1), of rows start..stop.
    """
    B, L = evidence.shape[:2]
    Q, device = tree.Q, evidence.device
    tables, root, channels = _tables(tree, (0,), device), tree.root.log().to(device), tree.channels.log().to(device)
    wide = max(
        _wide(tree, tables),
        max(n, 1) * max((table.groups[0][1].shape[1] for table in tables), default=Q),
    )
    strings = torch.empty((B, n, L), dtype=torch.int8 if Q <= 127 else torch.int16, device=device)
    for start, field in _blocks(evidence, Q, wide, max_memory):
        u = iter(numbers(start, start + len(field)).unbind(-1))
        inside, heard = _upward(field, tables, root, channels, torch.logsumexp)

        def pick(logs, u=u):
            """Of (b, n, nodes, choices)."""
            return _pick(logs, torch.stack([next(u) for _ in range(logs.shape[2])], 2))

        strings[start : start + len(field)] = _walk(inside, heard, tables, root, channels, n, pick)
    return strings


def tree_map(evidence, tree, max_memory):
    """Leaves (B, L) of the most probable derivations, int8 (int16 where Q > 127), -1 where impossible, and log_p (B,) float64."""
    B, L = evidence.shape[:2]
    Q, device = tree.Q, evidence.device
    tables, root, channels = _tables(tree, (0,), device), tree.root.log().to(device), tree.channels.log().to(device)
    strings = torch.empty((B, L), dtype=torch.int8 if Q <= 127 else torch.int16, device=device)
    log_p = torch.empty(B, dtype=torch.float64, device=device)
    for start, field in _blocks(evidence, Q, _wide(tree, tables), max_memory):
        top = _tops(field)
        inside, heard = _upward(field - top, tables, root, channels, torch.amax)
        at = slice(start, start + len(field))
        strings[at] = _walk(inside, heard, tables, root, channels, 1, lambda logs: logs.argmax(-1))[:, 0]
        log_p[at] = heard.amax(-1) + _sum(top[..., 0])
    return strings, log_p


def _blocks(evidence, Q, wide, max_memory):
    """(number of the first row, field (b, L, Q) float64) of blocks whose temporaries take about max_memory bytes."""
    B, L = evidence.shape[:2]
    block = max(1, max_memory // (8 * 4 * L * wide))
    for start in range(0, B, block):
        rows = evidence[start : start + block]
        if rows.dtype.is_floating_point:
            field = rows.double()
            _check_field(field, start)
        else:
            seen = rows[..., None].long()
            field = torch.where((seen == -1) | (seen == torch.arange(Q, device=rows.device)), 0.0, -math.inf).double()
        yield start, field


class _Level(NamedTuple):
    """The rules of a level: (R, 1 + s) long, log-weights (R,); groups: by each column that was asked for (see _rules_of)."""

    rules: torch.Tensor
    log_w: torch.Tensor
    groups: list


def _tables(tree, columns, device):
    """[the _Level] of each level that is expanded, from the root."""
    made, tables = {}, []
    for block in tree.blocks[tree.factorized :]:
        if block not in made:
            rules, weights = tree.rules[slice(*block)], tree.weights[slice(*block)]
            groups = [_rules_of(rules, weights, c, tree.Q, device) for c in columns]
            made[block] = _Level(rules.long().to(device), weights.log().to(device), groups)
        tables.append(made[block])
    return tables


def _wide(tree, tables):
    """Numbers a leaf of the widest temporary."""
    listed = max((log_w.numel() for table in tables for _, log_w in table.groups), default=0)
    return max(tree.Q, listed // tree.arity, tree.Q**2 if tree.factorized else 0)


def _rules_of(rules, weights, symbol, Q, device):
    """Rules grouped by the symbol in column `symbol`: ([each other column] (Q, K), log-weights (Q, K)), K the longest group; shorter ones
    are filled up with log-weight -inf."""
    others = [column for column in range(rules.shape[1]) if column != symbol]
    groups = [(rules[:, symbol] == s).nonzero()[:, 0] for s in range(Q)]
    shape = Q, max(len(group) for group in groups)
    columns = [torch.zeros(shape, dtype=torch.long, device="cpu") for _ in others]
    log_w = torch.full(shape, -math.inf, dtype=torch.float64, device="cpu")
    for s, group in enumerate(groups):
        for column, other in zip(columns, others, strict=True):
            column[s, : len(group)] = rules[group, other].long()
        log_w[s, : len(group)] = weights[group].log()
    return [column.to(device) for column in columns], log_w.to(device)


def _combine(group, others, total):
    """(..., Q) message: `total` over each symbol's rules of the others' entries and the weight. No +inf occurs, so no NaN."""
    columns, log_w = group
    terms = log_w
    for message, column in zip(others, columns, strict=True):
        terms = terms + message[..., column]
    return total(terms, -1)


def _siblings(messages, s):
    """[(b, n / s, Q) messages of the first children, of the second ...] of (b, n, Q)."""
    return [messages[:, c::s] for c in range(s)]


def _upward(leaves, tables, root, channels, total):
    """Messages of every level that has rules, and of the leaves, from above: (b, nodes, Q) each; and (b, Q), what the root has heard with
    its prior. total: torch.logsumexp, or torch.amax."""
    inside = [leaves]
    for table in tables[::-1]:
        by_parent = table.groups[0]
        inside.insert(0, _combine(by_parent, _siblings(inside[0], len(by_parent[0])), total))
    heard = _hung(inside[0], channels, total).sum(1) if len(channels) else inside[0][:, 0]
    return inside, heard + root


def _hung(messages, channels, total):
    """(b, nodes, Q): what nodes that hang on the root tell it."""
    return total(channels + messages[..., None, :], -1)


def _posterior(field, tables, root, channels, levels):
    """{field of TreePosterior: table} of one block, float64: what `levels` asks for, at least."""
    top = _tops(field)
    inside, heard = _upward(field - top, tables, root, channels, torch.logsumexp)
    log_z = torch.logsumexp(heard, -1)
    found = {"log_z": log_z + _sum(top[..., 0]), "impossible": log_z == -math.inf}
    if levels is None:
        return found
    outside = [_to_hung(inside[0], root, channels) if len(channels) else root.expand_as(inside[0])]
    for table, below in zip(tables, inside[1:], strict=True):
        children = _siblings(below, len(table.groups) - 1)
        told = [
            _combine(group, [outside[-1], *children[:c], *children[c + 1 :]], torch.logsumexp) for c, group in enumerate(table.groups[1:])
        ]
        outside.append(torch.stack(told, 2).flatten(1, 2))
    shown = slice(-1, None) if levels == "leaves" else slice(None)
    beliefs = [above + below for above, below in zip(outside[shown], inside[shown], strict=True)]
    if levels != "leaves" and len(channels):
        beliefs.insert(0, heard[:, None])
    found["marginals"] = _shares(torch.cat(beliefs, 1))
    if levels == "rules":
        ruled = [field[:, :0, 0]]
        for table, above, below in zip(tables, outside, inside[1:], strict=False):
            parent, *children = table.rules.T
            terms = above[..., parent] + table.log_w
            for column, message in zip(children, _siblings(below, len(children)), strict=True):
                terms = terms + message[..., column]
            ruled.append(_shares(terms).flatten(1))
        found["rule_marginals"] = torch.cat(ruled, 1)
    return found


def _to_hung(messages, root, channels):
    """(b, nodes, Q): what nodes that hang on the root hear from it and each other."""
    told = _hung(messages, channels, torch.logsumexp)
    before, after = told.cumsum(1).roll(1, 1), told.flip(1).cumsum(1).flip(1).roll(-1, 1)   # not by difference: -inf
    before[:, 0], after[:, -1] = 0.0, 0.0
    return torch.logsumexp(channels + (root + before + after)[..., None], -2)


def _shares(beliefs):
    """Probabilities over the last axis; below 2^-126, and where nothing has any, 0."""
    total = torch.logsumexp(beliefs, -1, keepdim=True)
    shares = torch.where(total == -math.inf, 0.0, (beliefs - total).exp())
    return torch.where(shares < 2.0**-126, 0.0, shares)


def _tops(field):
    """(b, L, 1): the largest entry of each leaf, 0 where all are excluded."""
    top = field.amax(2, keepdim=True)
    return torch.where(top == -math.inf, 0.0, top)


def _walk(inside, heard, tables, root, channels, n, pick):
    """(b, n, L) strings of one block, from the root down; -1 where nothing is possible. pick: logarithms (b, n, nodes, choices) of what
    the choices of each node weigh -> (b, n, nodes), the chosen."""
    nodes = pick(heard[:, None, None].expand(-1, n, -1, -1))
    if len(channels):
        hanging = torch.arange(len(channels), device=nodes.device)
        nodes = pick(channels[hanging, nodes.expand(-1, -1, len(channels))] + inside[0][:, None])
    for table, below in zip(tables, inside[1:], strict=True):
        columns, log_w = table.groups[0]
        own = [column[nodes] for column in columns]   # (b, n, nodes, rules)
        logs = log_w[nodes]
        for messages, column in zip(_siblings(below, len(columns)), own, strict=True):
            logs = logs + messages[:, None].expand(-1, n, -1, -1).gather(3, column)
        rule = pick(logs)[..., None]
        nodes = torch.cat([column.gather(3, rule) for column in own], 3).flatten(2)
    impossible = heard.amax(-1) == -math.inf
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
