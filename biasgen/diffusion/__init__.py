"""Noise levels and schedules, forward and reverse process, samplers with counter-based noise."""
from biasgen.diffusion.process import forward_process, one_hot, reverse_step
from biasgen.diffusion.sampler import reverse_times, reverse_trajectory, sample_tokens
from biasgen.diffusion.schedule import Level, Schedule

__all__ = ["Level", "Schedule", "forward_process", "one_hot", "reverse_step", "reverse_times", "reverse_trajectory", "sample_tokens"]
