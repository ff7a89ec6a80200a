"""The size of the decision rules: unbiased samples of the paper's grammar are not called biased too often.

100 draws of a rule at 5 % give 12 rejections or more with probability 0.4 %; docs/studies/null.md has 1000 draws.
"""
from collections import Counter

from biasgen.data.training_set import TrainingSet
from biasgen.metrics.nn_divergence import nn_divergence
from biasgen.metrics.train_affinity import train_affinity
from biasgen.trees import TreeGrammar

M = 2000
SIZES = ((4000, 4000), (4000, 20_000), (4000, 2000), (20_000, 4000))     # n, h


def test_false_positive_rate():
    grammar = TreeGrammar.random()
    rejected = Counter()
    for draw in range(100):
        rows = grammar.sample(M + 24_000, seed=11, offset=draw * 50_000)
        train = TrainingSet(rows[:M], distance="hamming")
        for n, h in SIZES:
            gen, heldout = rows[M : M + n], rows[M + n : M + n + h]
            for metric in (train_affinity, nn_divergence):
                p_value = metric(gen=gen, train=train, heldout=heldout, permutations=99, seed=draw).p_value
                rejected[metric.__name__, n, h] += p_value <= 0.05
    assert max(rejected.values()) <= 11, rejected
