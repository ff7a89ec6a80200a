"""Hierarchical data whose exact law is known: grammars on trees, sampling, the exact denoiser."""
from biasgen.trees.denoiser import TreeDenoiser
from biasgen.trees.grammar import TreeGrammar

__all__ = ["TreeDenoiser", "TreeGrammar"]
