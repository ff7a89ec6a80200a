"""Golden calls of searches: every distance, element type, k, view, streamed sets, the denoiser."""

from functools import cache

import numpy as np
import torch

import biasgen
from biasgen import EmpiricalDenoiser, Level, TrainingSet
from biasgen.ops.empirical_denoise import empirical_denoise

TOKENS = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")
NUMBERS = ("uint8", "float64", "float32", "float16", "bfloat16")
DISTANCES = {"hamming": TOKENS} | dict.fromkeys(
    ("sqeuclidean", "euclidean", "cosine", "correlation", "cityblock"), NUMBERS
)
CLOSE = 2e-5  # twice what docs/exactness.md promises of a denoiser


@cache
def rows(kind, n, seed, shape=(70,), symbols=5):
    """Rows of an element type, some of them equal, some at equal distances."""
    rng = np.random.default_rng(seed)
    if kind in TOKENS and symbols:
        made = rng.integers(0, symbols if kind in ("uint8", "int8") else 300, (n, *shape))
    elif kind == "uint8":
        made = rng.integers(0, 256, (n, *shape))
    else:
        made = rng.normal(size=(n, *shape)).round(1 if seed % 2 else 8) + 0.25
    made[n // 2 :: 5] = made[: len(made[n // 2 :: 5])]
    if kind == "bfloat16":
        return torch.from_numpy(made).to(torch.bfloat16)
    return made.astype(kind)


def sets(kind, distance, shape=(70,), M=60):
    """Queries and reference rows."""
    symbols = 5 if distance == "hamming" else 0
    return rows(kind, 9, 1, shape, symbols), rows(kind, M, 3, shape, symbols)


def found(neighbours):
    """What a search answers, without where it ran."""
    of_answer = neighbours.distances, neighbours.indices, neighbours.tie_counts
    return *of_answer, neighbours.stats["distinct"]


def middle(query, reference, distance=None):
    """The median of all distances: it is one of them, or lies between two."""
    return float(np.median(biasgen.pairwise_distances(query, reference, distance=distance)))


def calls():
    """(name, function, tolerance) of each call."""
    yield from _every_distance()
    yield from _settings()
    yield from _views()
    yield from _streamed()
    yield from _denoiser()


def _every_distance():
    for distance, kinds in DISTANCES.items():
        for kind in kinds:
            query, reference = sets(kind, distance)

            def knn(query=query, reference=reference, distance=distance):
                return found(biasgen.knn(query, reference, 4, distance=distance))

            yield f"knn {distance} {kind}", knn, None
        for kind in (kinds[0], kinds[2]):
            query, reference = sets(kind, distance)
            pair = {"query": query, "reference": reference, "distance": distance}
            yield f"credit {distance} {kind}", lambda p=pair: biasgen.nearest_credit(**p), None
            yield (
                f"pairwise {distance} {kind}",
                lambda p=pair: biasgen.pairwise_distances(**p),
                None,
            )
        pair = {"query": query, "reference": reference, "distance": distance}
        yield (
            f"range_count {distance}",
            lambda p=pair: biasgen.range_count(**p, radius=middle(**p)),
            None,
        )
        yield (
            f"distance_histogram {distance}",
            lambda p=pair: biasgen.distance_histogram(**p, bins=middle(**p) * np.arange(0, 2, 0.5)),
            None,
        )
        a, b = query, reference[: len(query)]
        yield (
            f"paired {distance}",
            lambda a=a, b=b, d=distance: biasgen.paired_distances(a, b, distance=d),
            None,
        )


def _settings():
    query, reference = sets("uint8", "sqeuclidean", M=90)
    tokens = rows("int16", 90, 3, (16,), 3)
    floats = rows("float32", 90, 3)
    for k in (1, 16, 64):
        yield f"knn k={k}", lambda k=k: found(biasgen.knn(query, reference, k)), None
    yield "knn tokens k=32", lambda: found(biasgen.knn(tokens[:9], tokens, 32)), None
    yield "knn without self", lambda: found(biasgen.knn(floats, floats, 3, exclude_self=True)), None
    yield (
        "knn of tokens without self",
        lambda: found(biasgen.knn(tokens, tokens, 5, exclude_self=True)),
        None,
    )
    yield (
        "knn of tensors",
        lambda: found(biasgen.knn(torch.from_numpy(floats[:5]), torch.from_numpy(floats), 2)),
        None,
    )
    for name, x in (("uint8", query), ("tokens", tokens), ("floats", floats)):
        yield (
            f"knn on torch, {name}",
            lambda x=x: found(biasgen.knn(x[:9], x, 3, backend="torch", max_memory=1 << 16)),
            None,
        )
    yield (
        "credit within",
        lambda: biasgen.nearest_credit(floats[:30] + 0.1, floats, within=1.0),
        None,
    )
    yield "histogram of integers", lambda: biasgen.distance_histogram(tokens, tokens, 17), None
    yield "defaults of a TrainingSet", lambda: found(TrainingSet(tokens).knn(tokens[::7], 2)), None


def _views():
    for kind, distance in (("uint8", "sqeuclidean"), ("float32", "cosine"), ("int32", "hamming")):
        query, reference = sets(kind, distance, (3, 8, 6))
        flipped = TrainingSet(reference, distance, views=("identity", "hflip"))
        yield f"views knn {distance}", lambda q=query, s=flipped: found(biasgen.knn(q, s, 3)), None
        yield (
            f"views credit {distance}",
            lambda q=query, s=flipped: biasgen.nearest_credit(q, s),
            None,
        )
        yield (
            f"views range_count {distance}",
            lambda q=query, s=flipped: biasgen.range_count(q, s, middle(q, s)),
            None,
        )


def _streamed():
    for kind, distance in (
        ("uint8", "euclidean"),
        ("float64", "correlation"),
        ("int64", "hamming"),
    ):
        query, reference = sets(kind, distance)
        held = TrainingSet(reference, distance, max_memory=reference[:1].nbytes * 8 * 13)
        yield f"streamed knn {distance}", lambda q=query, s=held: found(biasgen.knn(q, s, 5)), None
        yield (
            f"streamed credit {distance}",
            lambda q=query, s=held: biasgen.nearest_credit(q, s),
            None,
        )
        yield (
            f"streamed pairwise {distance}",
            lambda q=query, s=held: biasgen.pairwise_distances(q, s),
            None,
        )
    yield (
        "streamed without self",
        lambda: found(biasgen.knn(reference, held, 2, exclude_self=True)),
        None,
    )


def _denoiser():
    train = rows("float32", 60, 3, (4, 10))
    x = train[:6] + 0.3 * np.random.default_rng(0).normal(size=(6, 4, 10)).astype(np.float32)
    denoiser = EmpiricalDenoiser(train)
    for sigma in (0.05, 0.4, 5.0):
        yield f"denoise sigma={sigma}", lambda s=sigma: denoiser.denoise(x, Level(0.9, s)), CLOSE
    per_row = Level(np.linspace(0.2, 1, 6), np.linspace(2, 0.3, 6))
    yield "denoise levels of rows", lambda: denoiser(x, per_row), CLOSE
    yield "denoiser score", lambda: denoiser.score(x, Level(0.9, 0.5)), CLOSE
    yield (
        "denoiser log_density of tensors",
        lambda: denoiser.log_density(torch.from_numpy(x), per_row),
        CLOSE,
    )
    weights = np.random.default_rng(1).normal(size=60)
    yield (
        "denoise with weights",
        lambda: empirical_denoise(x, train, 0.8, 0.6, log_weights=weights),
        CLOSE,
    )
    images = rows("uint8", 40, 5, (3, 4), 0)
    encoded = EmpiricalDenoiser(images, encode=lambda rows: rows.float() / 127.5 - 1)
    yield "denoiser of encoded images", lambda: encoded(x[:, :3, :4], Level(1.0, 0.3)), CLOSE
    tokens = rows("int8", 50, 7, (8,), 5)
    z = np.random.default_rng(2).normal(size=(6, 8, 6))
    of_tokens = EmpiricalDenoiser(tokens)
    for sigma in (0.1, 1.0, 20.0):
        noised = 0.7 * np.eye(6)[tokens[:6]] + sigma * z
        yield (
            f"denoise tokens sigma={sigma}",
            lambda x=noised, s=sigma: of_tokens.denoise(x, Level(0.7, s)),
            CLOSE,
        )
