"""Measures bias towards the training set while a model trains."""
from biasgen.monitor.core import BiasMonitor
from biasgen.monitor.stopping import BiasStopping

__all__ = ["BiasMonitor", "BiasStopping"]
