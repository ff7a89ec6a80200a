"""Who finds near-copies? Families of images that differ in a few pixels by one grey level, searched by what is in use and by biasgen.

python -m benchmarks.near_copies prints a table in under a minute: the share of queries with a wrong neighbour (strictly farther than the
nearest row), with a wrong distance (squared distance off by more than half of the smallest difference, one pixel by one level), and of
queries one pixel from a training row for which the distance is reported as 0. The truth is in integers.
"""
import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch

import biasgen

try:
    import faiss
except ImportError:
    faiss = None

D = 3072  # 32 x 32 x 3
VARIANTS = 8

Search = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def families(base: np.ndarray, queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(8 n, D) training rows, variants of each base row in 0 .. 64 pixels; and queries, half exact copies, half one pixel off. uint8."""
    train = np.repeat(base, VARIANTS, 0)
    for row, changed in enumerate(np.tile([0, 1, 2, 4, 8, 16, 32, 64], len(base))):
        train[row, rng.choice(D, changed, replace=False)] ^= 1
    query = train[rng.integers(0, len(train), queries)]
    off = np.arange(queries // 2)
    query[off, rng.integers(0, D, len(off))] ^= 1
    return train, query


def bright(n: int, rng: np.random.Generator) -> np.ndarray:
    """White backgrounds."""
    return np.clip(np.rint(rng.normal(230, 10, (n, D))), 0, 255).astype(np.uint8)


def uniform(n: int, rng: np.random.Generator) -> np.ndarray:
    """Noise over the whole range."""
    return rng.integers(0, 256, (n, D), dtype=np.uint8)


def photo(n: int, rng: np.random.Generator) -> np.ndarray:
    """32 x 32 patches of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    corners = [(rng.integers(2), rng.integers(427 - 32), rng.integers(640 - 32)) for _ in range(n)]
    return np.stack([images[i][y : y + 32, x : x + 32].ravel() for i, y, x in corners])


def squares(query: np.ndarray, train: np.ndarray) -> np.ndarray:
    """(N, M) squared distances of uint8 rows: integers below 2^53 in float64."""
    x, y = torch.from_numpy(query).double(), torch.from_numpy(train).double()
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)).numpy()


def torch_cdist(query: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As most code has it."""
    nearest = torch.cdist(torch.from_numpy(query), torch.from_numpy(train)).min(1)
    return nearest.values.double().square().numpy(), nearest.indices.numpy()


def torch_product(query: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|x|^2 + |y|^2 - 2 x y in float32."""
    x, y = torch.from_numpy(query), torch.from_numpy(train)
    nearest = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)).min(1)
    return nearest.values.double().numpy(), nearest.indices.numpy()


def faiss_flat(query: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IndexFlatL2, in one batch."""
    index = faiss.IndexFlatL2(D)
    index.add(train)
    distances, indices = index.search(query, 1)
    return distances[:, 0].astype(np.float64), indices[:, 0]


def biasgen_knn(query: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same question to biasgen."""
    found = biasgen.knn(query, train, distance="sqeuclidean")
    return found.distances[:, 0].astype(np.float64), found.indices[:, 0]


def methods() -> Iterator[tuple[str, Search]]:
    """What is compared."""
    if faiss is not None:
        yield "faiss IndexFlatL2", faiss_flat
    yield "torch.cdist", torch_cdist
    yield "torch float32 x2 + y2 - 2xy", torch_product
    yield "biasgen.knn", biasgen_knn


def shares(search: Search, query: np.ndarray, train: np.ndarray, truth: np.ndarray, level: float) -> tuple[float, float, float]:
    """Shares of wrong neighbours, wrong distances, and of near-copies reported as 0; level: one grey level in units of the rows."""
    distances, indices = search(query, train)
    nearest = truth.min(1)
    wrong = truth[np.arange(len(truth)), indices] > nearest
    off = abs(distances / level**2 - nearest) > 0.5
    return wrong.mean(), off.mean(), (distances[nearest == 1] <= 0).mean()


def table(bases: int, queries: int, seed: int = 0) -> list[tuple[str, str, str, tuple[float, float, float]]]:
    """(data, range, method, shares) of every combination. Rows of uint8 reach the others as the float32 numbers 0 .. 255."""
    rows = []
    for make in (bright, uniform, photo):
        rng = np.random.default_rng(seed)
        train, query = families(make(bases, rng), queries, rng)
        truth = squares(query, train)
        for name, low, level in (("0..255", 0.0, 1.0), ("[0, 1]", 0.0, 1 / 255), ("[-1, 1]", -1.0, 2 / 255)):
            scaled = [(low + level * rows.astype(np.float64)).astype(np.float32) for rows in (query, train)]
            for method, search in methods():
                given = (query, train) if search is biasgen_knn and level == 1 else scaled
                rows.append((make.__name__, name, method, shares(search, *given, truth, level)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Near-copies that float32 searches lose.")
    parser.add_argument("--bases", type=int, default=1000, help="different images; each has 8 variants in the training set")
    parser.add_argument("--queries", type=int, default=1000, help="half exact copies, half one pixel off")
    arguments = parser.parse_args()
    print(f"{VARIANTS * arguments.bases} training rows, {arguments.queries} queries, D = {D}; share of queries")
    print(f"{'data':8} {'range':8} {'method':28} {'wrong neighbor':>14} {'wrong distance':>15} {'one pixel off, reported 0':>26}")
    for data, scale, method, (wrong, off, zero) in table(arguments.bases, arguments.queries):
        print(f"{data:8} {scale:8} {method:28} {wrong:14.1%} {off:15.1%} {zero:26.1%}")


if __name__ == "__main__":
    main()
