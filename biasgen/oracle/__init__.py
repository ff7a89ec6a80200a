"""The specification in plain NumPy, one file an op: slow and obvious. Imported by tests and benchmarks alone."""
