"""Hierarchical data whose exact law is known: grammars on trees, sampling, the exact denoiser, files."""
from biasgen.trees.denoiser import TreeDenoiser
from biasgen.trees.files import LabeledData, load_grammar, load_labeled_data, save_grammar, save_labeled_data
from biasgen.trees.grammar import TreeGrammar

__all__ = ["LabeledData", "TreeDenoiser", "TreeGrammar", "load_grammar", "load_labeled_data", "save_grammar", "save_labeled_data"]
