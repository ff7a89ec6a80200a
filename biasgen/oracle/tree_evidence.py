"""Log-fields that are hard on belief propagation on trees: strong, at odds with the grammar, with symbols excluded, impossible."""
import numpy as np

from biasgen.oracle.tree_posterior import blocks

SCALES = (0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)


def draw_leaves(rng, n, depth, rules, weights, level_offsets=None, root=None):
    """(n, L) strings of a grammar, with the numbers of a NumPy generator."""
    rules = np.asarray(rules, int)
    Q = rules[:, 0].max() + 1
    nodes = rng.choice(Q, (n, 1), p=root)
    for rows, w in blocks(rules, weights, level_offsets, depth):
        chosen = np.empty(nodes.shape, int)
        for parent in np.unique(nodes):
            own = np.flatnonzero(rows[:, 0] == parent)
            chosen[nodes == parent] = rng.choice(own, (nodes == parent).sum(), p=w[own] / w[own].sum())
        nodes = rows[chosen, 1:].reshape(n, -1)
    return nodes


def hard_fields(seed, depth, rules, weights, level_offsets=None, root=None, *, n=1, scales=SCALES):
    """{(scale, kind, form): (n, L, Q) float64}.

    kind, where the field is large: "allowed", at one symbol of each leaf, on the grammar; "forbidden", so but for one family that no rule
    has (any, where all have one); "random", at a symbol of each leaf at random; "normal", normal numbers; "positive", at every symbol,
    once to twice the scale. form: "plain"; "excluded", with a fifth of the symbols at -inf, but a string of the grammar left;
    "masked", no symbol told from the others, each leaf at some constant; "impossible", one leaf without symbols, or, every other time, a
    family that no rule has.
    """
    rng, s = np.random.default_rng(seed), len(rules[0]) - 1
    Q, L = int(np.max(np.asarray(rules)[:, 0])) + 1, s**depth
    family = {tuple(row[1:]) for row in blocks(np.asarray(rules).tolist(), weights, level_offsets, depth)[-1][0]}
    foreign = [tuple(row) for row in rng.integers(0, Q, (200, s)).tolist()]
    ungrammatical = [row for row in foreign if row not in family]   # a dense grammar has every family
    foreign = np.array(ungrammatical or foreign)
    hot, fields = np.eye(Q), {}
    for scale in scales:
        strings = draw_leaves(rng, n, depth, rules, weights, level_offsets, root)
        forbidden = strings.copy()
        first = s * rng.integers(L // s)
        forbidden[:, first : first + s] = rng.choice(foreign, n)
        kinds = {
            "allowed": scale * hot[strings],
            "forbidden": scale * hot[forbidden],
            "random": scale * hot[rng.integers(0, Q, (n, L))],
            "normal": scale * rng.standard_normal((n, L, Q)),
            "positive": scale * (1 + rng.random((n, L, Q))),
        }
        for number, (kind, field) in enumerate(kinds.items()):
            fields[scale, kind, "plain"] = field
            out = (rng.random(field.shape) < 0.2) & (hot[strings] == 0)
            fields[scale, kind, "excluded"] = np.where(out, -np.inf, field)
            fields[scale, kind, "masked"] = np.repeat(field[..., :1], Q, 2)
            barred = np.zeros(field.shape, bool)
            barred[:, first] = True
            if ungrammatical:
                other = np.arange(number, number + n) % 2 == 1
                barred[other, first : first + s] = hot[forbidden[other, first : first + s]] == 0
            fields[scale, kind, "impossible"] = np.where(barred, -np.inf, field)
    return fields
