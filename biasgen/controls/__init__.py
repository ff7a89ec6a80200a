"""Samples and denoisers with a known dose of bias, and the dose that a sample is equivalent to."""
from biasgen.controls.equivalent_dose import DoseCurve, dose_curve
from biasgen.controls.mixture_denoiser import ConstantMixture, MixtureDenoiser
from biasgen.controls.samples import fresh_batches, mix_samples, uturn

__all__ = ["ConstantMixture", "DoseCurve", "MixtureDenoiser", "dose_curve", "fresh_batches", "mix_samples", "uturn"]
