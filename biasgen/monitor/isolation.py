"""Runs a model so that its training does not notice: modes, generators and autocast are put back as they were."""
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def untouched(*models: Any) -> Iterator[None]:
    """Eval mode, no gradients and no autocast inside; afterwards every module's mode and the global generators of torch, NumPy and
    Python are as before. Models that are no torch modules are left alone.

    The autocast cache is emptied at the end: some versions of torch keep weights there that a sampler had cast without gradients, and a
    caller inside an autocast region would train on them without learning.
    """
    modes = [(module, module.training) for model in models if isinstance(model, torch.nn.Module) for module in model.modules()]
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        for module, _ in modes:
            module.training = False
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for device in ("cpu", "cuda") if cuda_states else ("cpu",):
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for module, training in modes:
            module.training = training
        torch.clear_autocast_cache()
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
