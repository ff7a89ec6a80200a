"""Measures bias towards the training set while a model trains."""
from biasgen.monitor.core import BiasMonitor

__all__ = ["BiasMonitor"]
