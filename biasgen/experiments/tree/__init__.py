"""Experiments on tree data, where the optimum is known."""
