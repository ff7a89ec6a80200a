"""Alignment: does a denoiser lean towards its training rows? Asked without sampling, one forward a probe row and noise level."""
import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch

from biasgen._numbers import is_whole
from biasgen.data.hygiene import contents
from biasgen.diffusion import Schedule, forward_process, model_space
from biasgen.diffusion.sampler import Denoiser
from biasgen.metrics._probe_level import ProbeLevel, labelings
from biasgen.metrics._sets import check_sets, rows_of, to_numpy, views_of
from biasgen.ops import philox
from biasgen.ops._rows import dtype_name
from biasgen.ops.empirical_denoise import float_rows
from biasgen.results import Result
from biasgen.statistics.bootstrap import ratio
from biasgen.statistics.intervals import Z95, student_upper_tail
from biasgen.statistics.permutation import upper_tail

_FEWEST_RELABELINGS = 19    # relabelings whose spread is worth a Student t


class AlignmentProbe:
    """Where a denoiser lies between the exact empirical denoisers E_T and E_H of its training set and of as many held-out rows.

    c = sum_x 2 <D - (E_T + E_H)/2, E_T - E_H> / sum_x |E_T - E_H|^2 over noised rows x of a third set: +1 for the denoiser that has
    memorized train, -1 for that of heldout, and in expectation 0 for every denoiser that depends on neither, good or bad. Linear in D: a
    constant mix of c = 0 and E_T has c = its coefficient. Prepared once; every evaluation sees the same noise.

    Args:
        train (m, ...), heldout (h, ...), probe (N, ...): rows of one shape and element type. Of sets of unequal size `splits` random
            subsets of min(m, h) rows of each are taken and summed. probe: of neither set; N of some hundreds will do.
        schedule: names the levels. t: one step or several; several are pooled, sums in numerator and denominator. Levels at which
            sum |E_T - E_H|^2 is below 1e-12 of sum |x_0|^2 are left out and named in params["dropped"].
        permutations: relabelings of the pool of train and heldout; 0: no null, no p.
        seed: of noise, subsets and relabelings.
        encode: rows -> float tensor in the space in which noise is added (diffusion.model_space): needed for uint8 images; integer
            tokens become one-hot rows of as many symbols as occur in the three sets.

    Tensors are worked on where probe is. Memory and time: see ProbeLevel, once a level; keep m and h to some thousands.
    Raises ValueError for sets or settings that do not fit, and where every level is left out. Source: biasgen, docs/statistics.md.
    """

    def __init__(
        self,
        *,
        train: Any,
        heldout: Any,
        probe: Any,
        schedule: Schedule,
        t: int | Sequence[int],
        splits: int = 1,
        permutations: int = 99,
        seed: int = 0,
        encode: Callable[[Any], torch.Tensor] | None = None,
    ) -> None:
        levels = {step: schedule.at(step) for step in _checked_steps(t, splits, permutations)}
        check_sets(None, train=train, heldout=heldout, probe=probe)
        if views_of(train, heldout, probe) != ("identity",):
            raise ValueError("train: want rows without views, the empirical denoiser has none: add the mirror images as rows to every set")
        _check_third(train=train, heldout=heldout, probe=probe)
        x0, pool = _in_model_space(encode, probe=probe, train=train, heldout=heldout)
        labels = labelings(len(train), len(heldout), splits, permutations, seed, pool.device)
        found = {}
        with torch.no_grad(), torch.autocast(x0.device.type, enabled=False):
            for step, level in levels.items():
                z = philox.normals(seed, n=len(x0), count=x0[0].numel(), step=step, purpose=philox.FORWARD)
                x_t = forward_process(x0, level, torch.from_numpy(z).reshape(x0.shape).to(x0.device))
                found[step] = ProbeLevel(x0, x_t, level, pool, labels)
        self._levels = {step: prepared for step, prepared in found.items() if not prepared.vanishes}
        if not self._levels:
            raise ValueError(f"t: the empirical denoisers of train and heldout agree at every level, {list(levels)}: want noisier ones")
        self._rows, self._device = min(len(train), len(heldout)), x0.device.type
        dropped = [step for step in levels if step not in self._levels]
        self._params = {"dropped": dropped, "probe_rows": len(x0), "splits": len(labels[0]), "permutations": permutations, "seed": seed}

    def __call__(self, denoiser: Denoiser, twin: Denoiser | None = None) -> Result:
        """The alignment of `denoiser`, levels pooled. It is called without gradients and without autocast.

        twin: the denoiser that was trained on `heldout` as its own training set. The value then is the mean of both models' alignment, each
        with its own set, sum <D - D_twin, E_T - E_H> / sum |E_T - E_H|^2: what both share, chance alignment with these rows, cancels.

        Returns a Result. null.mean is 0 by symmetry (with splits > 1 that of the numerator). p_value: one-sided, of value among the
            relabelings, by Student's t, since a sum over many pool rows is close to normal and few relabelings cannot resolve the small
            levels of a sequential test; params["rank_p"] is the permutation p, exact whatever the denoiser is. It asks whether D depends on
            train at all: a model that has learned anything from its rows does, so decide by the size of the value, too. ci: the chance of
            the probe rows (params["probe_ci"], a bootstrap, all levels of a row together) and of these sets (the spread of the
            relabelings; without them it is left out).
        """
        return self._result(self._evaluate(denoiser, twin))

    def spectrum(self, denoiser: Denoiser, twin: Denoiser | None = None) -> dict[int, Result]:
        """{t: Result}, the alignment level by level: at which noise, hence at which scale of the data, the model leans on its rows."""
        return {t: self._result({t: terms}) for t, terms in self._evaluate(denoiser, twin).items()}

    def _evaluate(self, denoiser: Denoiser, twin: Denoiser | None) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        with torch.no_grad(), torch.autocast(self._device, enabled=False):
            return {t: level.numerators(denoiser, twin) for t, level in self._levels.items()}

    def _result(self, numerators: dict[int, tuple[np.ndarray, np.ndarray]]) -> Result:
        numerator, relabeled = (sum(parts) for parts in zip(*numerators.values(), strict=True))
        value, ci = ratio(numerator, sum(self._levels[t].norm for t in numerators), seed=self._params["seed"])
        null, p_value, params = None, None, {"t": list(numerators)} | self._params
        if len(relabeled):
            permuted = relabeled / sum(self._levels[t].norms for t in numerators)[1:]
            null, params["rank_p"] = upper_tail(value, permuted, mean=0.0, method="labels of train and heldout")
            of_sets = float(permuted.std(ddof=1))
            half = math.hypot((ci[1] - ci[0]) / 2, Z95 * of_sets)
            params["probe_ci"], ci = ci, (value - half, value + half)
            spread = of_sets * math.sqrt(1 + 1 / len(permuted))
            # no spread: twins that agree everywhere, as before their first step, have nothing to be aligned
            p_value = student_upper_tail((value - float(permuted.mean())) / spread, len(permuted) - 1) if spread > 0 else 1.0
        return Result(value, ci=ci, null=null, p_value=p_value, n_train=self._rows, n_heldout=self._rows, params=params)


def alignment(
    denoiser: Denoiser,
    *,
    train: Any,
    heldout: Any,
    probe: Any,
    schedule: Schedule,
    t: int | Sequence[int],
    twin: Denoiser | None = None,
    splits: int = 1,
    permutations: int = 99,
    seed: int = 0,
    encode: Callable[[Any], torch.Tensor] | None = None,
) -> Result:
    """AlignmentProbe(train=..., ...)(denoiser, twin): for one denoiser. Prepare a probe once where several are compared."""
    settings = {"schedule": schedule, "t": t, "splits": splits, "permutations": permutations, "seed": seed, "encode": encode}
    return AlignmentProbe(train=train, heldout=heldout, probe=probe, **settings)(denoiser, twin)


def _check_third(*, probe: Any, **sets: Any) -> None:
    """ValueError where most probe rows are among those of another set: near its own row every denoiser leans to it."""
    for name, rows in sets.items():
        first = contents(rows_of(rows, name), rows_of(probe, "probe"))
        shared = float((first[len(rows) :] < len(rows)).mean())
        if shared > 0.5:
            raise ValueError(f"probe: want rows of a third set, {shared:.0%} of them are in {name}")


def _checked_steps(t: Any, splits: Any, permutations: Any) -> list[int]:
    """The steps of t; ValueError for a setting that no probe could be prepared with."""
    steps = [t] if isinstance(t, Integral) else list(t)
    if not steps or len(set(steps)) != len(steps):
        raise ValueError(f"t: want one step or several different ones, got {t!r}")
    if not is_whole(splits, 1):
        raise ValueError(f"splits: want a whole number of at least 1, got {splits!r}")
    if not is_whole(permutations) or not (permutations == 0 or permutations >= _FEWEST_RELABELINGS):
        raise ValueError(f"permutations: want 0 or a whole number of at least {_FEWEST_RELABELINGS}, got {permutations!r}")
    return steps


def _in_model_space(encode: Callable[[Any], torch.Tensor] | None, **sets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(probe (N, ...) float32, the pool of train and heldout (M, D) float64), on the device of probe."""
    rows = {name: rows_of(candidate, name) for name, candidate in sets.items()}
    if len(rows["probe"]) < 2:
        raise ValueError(f"probe: want at least 2 rows, got {len(rows['probe'])}")
    tokens = encode is None and all("int" in dtype_name(r, name) for name, r in rows.items())
    Q = 1 + max(int(to_numpy(r).max()) for r in rows.values()) if tokens else None
    probe, *pool = (model_space(r, encode, Q=Q, name=name) for name, r in rows.items())
    flat = [float_rows(part, name) for name, part in zip(rows, (probe, *pool), strict=True)]       # refuses NaN
    return probe.float(), torch.cat([part.to(probe.device, torch.float64) for part in flat[1:]])
