"""`make gpu-check` (check.py) and its steps; all but what a device alone can show runs on the CPU in tests/test_gpu_check.py."""
