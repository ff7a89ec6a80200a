"""`make gpu-check` (check.py) and its steps; tests/test_gpu_steps.py runs them without a device."""
