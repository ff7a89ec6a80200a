"""The paper's experiments, runnable."""
