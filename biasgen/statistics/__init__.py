"""Permutation nulls, intervals and decisions. No formula of a metric but the two-sample numbers: the metrics bring theirs."""
from biasgen.statistics.bootstrap import cluster_sums, ratio, redrawn_sums
from biasgen.statistics.detection import detect, permutations_needed
from biasgen.statistics.false_discovery import q_values
from biasgen.statistics.power import detectable, hubness
from biasgen.statistics.turning_point import lowest

__all__ = ["cluster_sums", "detect", "detectable", "hubness", "lowest", "permutations_needed", "q_values", "ratio", "redrawn_sums"]
