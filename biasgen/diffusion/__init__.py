"""Noise levels and schedules, forward and reverse process, kinds of prediction, samplers with counter-based noise."""
from biasgen.diffusion.denoisers import as_denoiser, prediction_of
from biasgen.diffusion.empirical import EmpiricalDenoiser
from biasgen.diffusion.process import forward_process, model_space, one_hot, reverse_step
from biasgen.diffusion.sampler import reverse_times, reverse_trajectory, sample_tokens
from biasgen.diffusion.schedule import Level, Schedule

__all__ = [
    "EmpiricalDenoiser",
    "Level",
    "Schedule",
    "as_denoiser",
    "forward_process",
    "model_space",
    "one_hot",
    "prediction_of",
    "reverse_step",
    "reverse_times",
    "reverse_trajectory",
    "sample_tokens",
]
