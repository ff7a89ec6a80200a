"""What other statistics of memorization say to the same fair and dosed samples.

Their formulas are written here from the papers (references on the page); each is given exact distances, so what differs is the statistic.
Run: python -m benchmarks.studies.peers [--draws 40] [--seed 51] [--out docs/studies].
"""
import time
from functools import partial
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from sklearn.cluster import KMeans

import biasgen
from benchmarks.studies.common import EXACT, GRAMMAR, SCHEDULE, options, parallel, rows, sample, table, write
from biasgen import controls
from biasgen.metrics.nn_divergence import kl_divergence

M, N, H = 2000, 4000, 4000
LEVEL = 0.05
REDRAWS = 200
_GEN_SEED = 52     # of fair samples: another list than that of the sets


def fair(seed: int, **_: Any) -> np.ndarray:
    return rows(N, seed=_GEN_SEED, draw=seed)


def few_steps(seed: int, **_: Any) -> np.ndarray:
    return sample(EXACT, N, steps=10, seed=seed)


def uturns(seed: int, train: np.ndarray, t0: int) -> np.ndarray:
    return controls.uturn(np.resize(train, (N, 16)), EXACT, SCHEDULE, t0, seed=seed)


def mixed(seed: int, train: np.ndarray, dose: float) -> np.ndarray:
    return controls.mix_samples(fair(seed), train, dose, seed=seed)


CONDITIONS = {   # name: (generator of samples, held-out rows, times each training row occurs, is it biased?)
    "fair samples, h = 4000": (fair, H, 1, False),
    "fair samples, h = 20000": (fair, 20_000, 1, False),
    "exact sampler, 10 steps": (few_steps, H, 1, False),
    "2 % copies": (partial(mixed, dose=0.02), H, 1, True),
    "20 % copies, every training row twice": (partial(mixed, dose=0.2), H, 2, True),
    "U-turns, t0 = 100": (partial(uturns, t0=100), H, 1, True),
    "U-turns, t0 = 60": (partial(uturns, t0=60), H, 1, True),
}
PEERS = ("affinity", "near affinity", "KL, null by splitting H", "KL, percentile bootstrap", "C_T (3 cells)", "authenticity < 1/2")


def one_draw(job: tuple[str, int], seed: int) -> dict[str, Any]:
    """{statistic: does it call the samples biased?} and the authenticity."""
    condition, draw = job
    make, h, repeats, _ = CONDITIONS[condition]
    train, heldout = np.split(rows(M + h, seed=seed, draw=draw), [M])
    gen = make(seed=draw, train=train)
    train = np.repeat(train, repeats, 0)
    found = biasgen.evaluate(gen=gen, train=train, heldout=heldout, seed=draw).metrics
    near, near_heldout = found["near_copies"].per_sample, biasgen.knn(heldout, train).distances[:, 0]
    rng = np.random.default_rng(draw)
    value = kl(near, near_heldout)
    splits = [kl(*np.split(rng.permutation(near_heldout), 2)) for _ in range(REDRAWS)]
    redrawn = [kl(rng.choice(near, N), rng.choice(near_heldout, h)) for _ in range(REDRAWS)]
    authentic = authenticity(gen, train)
    return {
        "affinity": found["train_affinity"].p_value <= LEVEL,
        "near affinity": found["near_affinity"].p_value <= LEVEL,
        "KL, null by splitting H": value > np.quantile(splits, 1 - LEVEL),
        "KL, percentile bootstrap": np.quantile(redrawn, LEVEL) > 0,
        "C_T (3 cells)": c_t(gen, train, heldout, draw) < -1.645,
        "authenticity < 1/2": authentic < 0.5,
        "authenticity": authentic,
    }


def kl(gen: np.ndarray, heldout: np.ndarray) -> float:
    """NN divergence as the authors' script has it: shares clipped at 1e-8."""
    counts = [np.bincount(d, minlength=17) for d in (gen, heldout)]
    return float(kl_divergence(*counts, compat="paper"))


def authenticity(gen: np.ndarray, train: np.ndarray) -> float:
    """Share of samples whose nearest training row lies nearer to another training row than to the sample (Alaa et al. 2022)."""
    found = biasgen.knn(gen, train)
    within = biasgen.knn(train, train, 2).distances[:, 1]
    return float((within[found.indices[:, 0]] < found.distances[:, 0]).mean())


def c_t(gen: np.ndarray, train: np.ndarray, heldout: np.ndarray, seed: int) -> float:
    """C_T: rank-sum z of distances to T within the cells of a k-means of T, weighted by the held-out rows (Meehan et al. 2020)."""
    hot = [np.eye(GRAMMAR.q, dtype=np.float32)[part].reshape(len(part), -1) for part in (train, gen, heldout)]
    cells = KMeans(3, n_init=10, random_state=seed).fit(hot[0])
    of_train, of_gen, of_heldout = (cells.predict(part) for part in hot)
    total = weight = 0.0
    for cell in range(3):
        inside = train[of_train == cell]
        q, p = (biasgen.knn(part[label == cell], inside).distances[:, 0] for part, label in ((gen, of_gen), (heldout, of_heldout)))
        if len(q) <= 20:
            continue
        counts = np.bincount(p, minlength=17)
        below, ties = (np.cumsum(counts) - counts)[q], counts[q]
        u = (below + 0.5 * ties).sum()     # pairs in which the generated row lies farther
        z = (u - (len(q) * len(p) / 2 - 0.5)) / np.sqrt(len(q) * len(p) * (len(q) + len(p) + 1) / 12)
        total, weight = total + len(p) * z, weight + len(p)
    return total / weight


def main() -> None:
    chosen = options(__doc__, draws=40, seed=51)
    started = time.perf_counter()
    jobs = [(condition, draw) for condition in CONDITIONS for draw in range(chosen.draws)]
    results = parallel(partial(one_draw, seed=chosen.seed), jobs, chosen.processes)
    shares, lines = {}, []
    for condition, (_, _, _, biased) in CONDITIONS.items():
        found = [result for (of, _), result in zip(jobs, results, strict=True) if of == condition]
        shares[condition] = {name: float(np.mean([result[name] for result in found])) for name in (*PEERS, "authenticity")}
        said = [f"{shares[condition][name]:.0%}" for name in PEERS]
        lines.append([condition, "yes" if biased else "no", *said, f"{shares[condition]['authenticity']:.3f}"])
    text = f"""# What other statistics say to the same samples

Share of {chosen.draws} draws that each rule calls biased at 5 % (m = {M}, n = {N}; paper's grammar; Hamming distances, exact for all). A
rule should say 5 % in the rows without bias and 100 % in the others.

{table(["samples", "biased?", *PEERS, "authenticity, mean"], lines)}

- **KL, null by splitting H**: NN divergence (Garnier-Brun et al. 2026) above the 95 % quantile of its values between random halves of
  the held-out set. The halves have other sizes than (n, h), so the threshold is wrong.
- **KL, percentile bootstrap**: lower 5 % percentile of redrawn values above 0. A divergence of resampled rows is never 0.
- **C_T** (Meehan, Chaudhuri, Dasgupta, AISTATS 2020, arXiv:2004.05675): z of distances G -> T against H -> T in 3 k-means cells of T,
  averaged with the held-out shares; data-copying below -1.645. Ties are not corrected, and like every comparison of distances it needs a
  sampler without faults: a poor one hides copies, because the rest of its samples lie too far.
- **Authenticity** (Alaa et al., ICML 2022, arXiv:2102.08921) has no null: the value of fair samples depends on dimension and size, so no
  threshold means anything; with every training row twice each copy counts as authentic.

![shares called biased](peers.png)"""
    write(chosen.out, "peers", text, draw(shares), started, chosen.seed)


def draw(shares: dict[str, dict[str, float]]) -> Any:
    figure, axis = plt.subplots(figsize=(11, 4), layout="constrained")
    grid = np.array([[shares[condition][name] for condition in CONDITIONS] for name in PEERS])
    axis.imshow(grid, cmap="Reds", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(grid):
        axis.text(j, i, f"{value:.0%}", ha="center", va="center", color="white" if value > 0.6 else "black")
    axis.set_xticks(range(len(CONDITIONS)), [f"{c}\n({'biased' if CONDITIONS[c][3] else 'fair'})" for c in CONDITIONS], fontsize=7)
    axis.set_yticks(range(len(PEERS)), PEERS)
    axis.set_title("share of draws called biased")
    return figure


if __name__ == "__main__":
    main()
