"""Alignment level by level: at which noise, hence at which scale of the data, a denoiser leans on its training rows."""
from collections.abc import Callable, Sequence
from typing import Any

import torch

from biasgen.diffusion import Schedule
from biasgen.diffusion.sampler import Denoiser
from biasgen.metrics.alignment import AlignmentProbe
from biasgen.results import Result


def bias_spectrum(
    denoiser: Denoiser,
    *,
    train: Any,
    heldout: Any,
    probe: Any,
    schedule: Schedule,
    t: Sequence[int],
    twin: Denoiser | None = None,
    splits: int = 1,
    permutations: int = 99,
    seed: int = 0,
    encode: Callable[[Any], torch.Tensor] | None = None,
) -> dict[int, Result]:
    """AlignmentProbe(train=..., ...).spectrum(denoiser, twin): {t: Result}, the alignment of one denoiser level by level."""
    settings = {"schedule": schedule, "t": t, "splits": splits, "permutations": permutations, "seed": seed, "encode": encode}
    return AlignmentProbe(train=train, heldout=heldout, probe=probe, **settings).spectrum(denoiser, twin)
