"""Permutation nulls, intervals and decisions. No formula of a metric: the metrics bring theirs."""
