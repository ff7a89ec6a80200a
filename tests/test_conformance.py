"""Every op on every backend, instruction set, element type and awkward shape, against the oracle: searches are equal to the bit, tree
posteriors keep the tolerances of biasgen.testing."""
import numpy as np
import pytest
import torch

from biasgen import backends
from biasgen.ops.knn import knn
from biasgen.ops.nearest_credit import nearest_credit
from biasgen.ops.tree import Tree
from biasgen.ops.tree_posterior import tree_posterior
from biasgen.oracle import knn as oracle
from biasgen.oracle import tree_posterior as tree_oracle
from biasgen.testing import assert_posterior_close
from tests.table import integers

# Hamming: queries come in groups of 4, reference rows in tiles of 256 (L <= 16) or 64. Sqeuclidean: tiles of 8 x 48 (AVX-512), 4 x 24
# (AVX2), 4 x 12.
SIZES = [(1, 1), (2, 9), (3, 31), (4, 33), (7, 47), (8, 48), (9, 49), (5, 63), (4, 64), (17, 65), (3, 255), (5, 256), (9, 257)]
TOKEN_DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")


def skip_unless(implementation, distance):
    why = backends.refusal(implementation, "knn", device="cpu", dtype="uint8", distance=distance)
    if why:
        pytest.skip(why)


def assert_search_equals_oracle(query, reference, distance, backend, ks=(1, 7)):
    """knn for each k and nearest_credit."""
    for k in ks:
        k = min(k, len(reference))
        found = knn(query, reference, k, distance=distance, backend=backend)
        distances, indices, tie_counts = oracle.knn(query, reference, k, distance)
        assert found.stats["backend"] == backend
        assert found.distances.dtype == found.indices.dtype == found.tie_counts.dtype == np.int64
        np.testing.assert_array_equal(found.distances, distances)
        np.testing.assert_array_equal(found.indices, indices)
        np.testing.assert_array_equal(found.tie_counts, tie_counts)
    credit = nearest_credit(query, reference, distance=distance, backend=backend)
    np.testing.assert_array_equal(credit.weights, oracle.nearest_credit(query, reference, distance))
    np.testing.assert_array_equal(credit.distances, oracle.distances(query, reference, distance).min(1))


def random_rows(seed, sizes, features, symbols, dtype="uint8"):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, symbols, (rows, features)).astype(dtype) for rows in sizes]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 64, 65, 130])
@pytest.mark.parametrize("dtype", TOKEN_DTYPES)
def test_hamming(implementation, dtype, length):
    for seed, sizes in enumerate(SIZES):
        symbols = (2, 6, 17, 128 if dtype == "int8" else 256)[seed % 4]
        query, reference = random_rows(seed, sizes, length, symbols, dtype)
        assert_search_equals_oracle(query, reference, "hamming", implementation)


@pytest.mark.parametrize("symbols", [1, 2, 3, 5, 9, 17, 33, 65, 129])
@pytest.mark.parametrize("length", [7, 20])
def test_hamming_with_every_number_of_bits(implementation, length, symbols):
    query, reference = random_rows(symbols, (5, 70), length, symbols)
    reference[0, 0] = symbols - 1
    assert_search_equals_oracle(query, reference, "hamming", implementation)
    assert_search_equals_oracle(255 - query, reference, "hamming", implementation)   # more bits in the query than in the reference


@pytest.mark.parametrize("symbols", [257, 512, 4096, 4097, 32_768, 32_769, 65_536])
@pytest.mark.parametrize("length", [7, 100])
def test_hamming_of_big_alphabets(implementation, length, symbols):
    """Every symbol differs from its neighbor in one bit, among others the highest; one side may fit in a byte."""
    dtype = "int16" if symbols <= 32_768 else ("uint16", "int64")[length % 2]
    query, reference = random_rows(symbols, (5, 70), length, symbols, dtype)
    reference[:5] = query ^ (1 << np.arange(5)[:, None] * 3 % (symbols - 1).bit_length())
    query[0, 0] = reference[9, 3] = symbols - 1
    small = (query % 256).astype("uint8")
    reference[20:25] = small
    reference[25:30] = small.astype(dtype) + (256 if symbols >= 512 else 0)
    for one in (query, small):
        assert_search_equals_oracle(one, reference, "hamming", implementation)
        assert_search_equals_oracle(reference, one, "hamming", implementation, ks=(1, 5))


@pytest.mark.parametrize("length", [4096, 4097, 32_768, 70_000])
@pytest.mark.parametrize("symbols", [6, 65_536])
def test_hamming_of_long_sequences(implementation, length, symbols):
    """Counts have 64 bits: beyond 32767 and 65535 differences, too."""
    query, reference = random_rows(length, (3, 12), length, symbols, "uint16")
    reference[5] = query[1]
    reference[5, -1] ^= 1
    reference[6:8] = (query[2].astype(int) + 1) % symbols
    assert_search_equals_oracle(query, reference, "hamming", implementation, ks=(1, 12))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.int32, torch.int64])
def test_tensors_of_big_tokens(implementation, dtype):
    query, reference = random_rows(0, (6, 40), 9, 65_536, "int64")
    reference[::4] = query[2]
    tensors = [torch.from_numpy(rows).to(dtype) for rows in (query, reference)]
    for one in (tensors[0], tensors[0].reshape(6, 3, 3).transpose(1, 2)):
        plain = one.long().numpy()
        other = tensors[1].reshape(40, *one.shape[1:])
        found = knn(one, other, 3, distance="hamming", backend=implementation)
        expected = oracle.knn(plain, other.long(), 3, "hamming")
        for values, wanted in zip((found.distances, found.indices, found.tie_counts), expected, strict=True):
            np.testing.assert_array_equal(values.numpy(), wanted)


@pytest.mark.parametrize("features", [1, 3, 16, 17, 64, 3072])
@pytest.mark.parametrize("distance", [name for name in integers() if name != "hamming"])
def test_bytes(implementation, distance, features):
    """Hamming of every shape is above."""
    skip_unless(implementation, distance)
    for seed, sizes in enumerate(SIZES):
        query, reference = random_rows(seed, sizes, features, 256)
        assert_search_equals_oracle(query, reference, distance, implementation)


@pytest.mark.parametrize("features", [32768, 32769, 33_025, 33_026, 70_000])
def test_sqeuclidean_beyond_int32(implementation, features):
    """70000 squares of 255 are 4.6e9; 33026 of them no longer fit in int32."""
    reference = np.zeros((3, features), np.uint8)
    reference[1] = 255
    reference[2, 0] = 1
    found = knn(reference[:2], reference[1::-1], 2, distance="sqeuclidean", backend=implementation)
    assert found.distances.tolist() == [[0, 255**2 * features]] * 2
    assert_search_equals_oracle(255 - reference, reference, "sqeuclidean", implementation, ks=(1, 3))


@pytest.mark.parametrize("distance", [name for name in integers() if name != "hamming"])
def test_bytes_longer_than_a_cache_block(implementation, distance):
    skip_unless(implementation, distance)
    query, reference = random_rows(0, (5, 1500), 130, 256)
    assert_search_equals_oracle(query, reference, distance, implementation, ks=(1, 64))


def test_reference_longer_than_a_cache_block(implementation):
    query, reference = random_rows(0, (5, 1500), 130, 256)
    assert_search_equals_oracle(query, reference, "hamming", implementation, ks=(1, 64))
    query, reference = random_rows(2, (6, 40_000), 9, 200)
    assert_search_equals_oracle(query, reference, "hamming", implementation, ks=(1, 64))
    query, reference = random_rows(1, (3, 50_000), 4, 60)
    assert_search_equals_oracle(query, reference, "hamming", implementation, ks=(1, 64))


@pytest.mark.parametrize(("features", "symbols"), [(2, 2), (3, 2), (9, 2), (70, 1)])
@pytest.mark.parametrize("distance", integers())
def test_ties_and_duplicates(implementation, distance, features, symbols):
    skip_unless(implementation, distance)
    query, reference = random_rows(0, (70, 600), features, symbols)
    assert_search_equals_oracle(query, reference, distance, implementation, ks=(1, 5, 64))


@pytest.mark.parametrize("distance", integers())
def test_views(implementation, distance):
    skip_unless(implementation, distance)
    query, reference = random_rows(0, (40, 300), 24, 200)
    query, reference = query[::-2, 1::3], reference.reshape(300, 24)[5:, ::-3]
    assert not query.flags.c_contiguous
    assert_search_equals_oracle(query, reference, distance, implementation)
    images, others = query.reshape(20, 2, 2, 2).swapaxes(1, 3), reference.reshape(295, 2, 2, 2).swapaxes(1, 3)
    assert_search_equals_oracle(images, others, distance, implementation)
    tensors = torch.from_numpy(images.copy()).transpose(1, 2), torch.from_numpy(others.copy()).transpose(1, 2)
    found = knn(*tensors, 2, distance=distance, backend=implementation)
    assert isinstance(found.indices, torch.Tensor)
    np.testing.assert_array_equal(found.indices.numpy(), oracle.knn(*tensors, 2, distance)[1])


def test_near_copy_by_one_grey_level(implementation):
    """The case that float32 inner products get wrong: 3072 bright pixels, one of them off by one."""
    rng = np.random.default_rng(0)
    reference = np.clip(rng.normal(230, 10, (300, 3, 32, 32)), 0, 255).astype(np.uint8)
    query = reference[::3].copy()
    query[:, 1, 5, 7] ^= 1
    found = knn(query, reference, 2, distance="sqeuclidean", backend=implementation)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(0, 300, 3))
    np.testing.assert_array_equal(found.distances[:, 0], 1)
    np.testing.assert_array_equal(knn(reference, reference, backend=implementation).distances, 0)


# The kernels take 4, 8 or 16 samples at a time, 4 columns and 4 leaves a block, and up to 4 rules a step.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("depth", "symbols", "per_parent"), [(1, 1, 1), (1, 3, 3), (2, 5, 4), (3, 6, 5), (4, 7, 6), (2, 64, 9), (6, 2, 1)])
def test_tree_posterior(implementation, depth, symbols, per_parent, dtype):
    rng = np.random.default_rng([depth, symbols])
    pairs = rng.permutation(symbols**2)[: symbols * per_parent]
    rules = np.stack([np.repeat(np.arange(symbols), per_parent), *np.divmod(pairs, symbols)], 1).astype(np.int16)
    weights = rng.dirichlet(np.ones(per_parent), symbols).ravel()
    tree = Tree.checked(symbols, depth, rules, weights)
    for size in (1, 2, 3, 5, 15, 16, 33):
        field = rng.choice([0.1, 3, 1e3], (size, 1, 1)) * rng.standard_normal((size, 2**depth, symbols))
        field[rng.random(field.shape) < 0.03] = -np.inf
        field = field.astype(dtype)
        found = tree_posterior(field, tree, backend=implementation)
        assert_posterior_close(found, tree_oracle.tree_posterior(field, rules, weights))
