"""benchmarks/compare_builds.py: two builds of biasgen in one process, each by itself."""

import sys

import pytest

compare_builds = pytest.importorskip(
    "benchmarks.compare_builds", reason="no benchmarks beside these tests"
)
build_rows = pytest.importorskip("benchmarks.build_rows")


@pytest.fixture(scope="module")
def builds():
    return compare_builds.Build(compare_builds.ROOT), compare_builds.Build(compare_builds.ROOT)


def test_builds_do_not_share_a_module(builds):
    import biasgen

    seen = []
    for build in builds:
        with build.active():
            import biasgen as own
            from biasgen import _cpu
            from biasgen.ops import tree_posterior  # which registers an op with torch

            seen += [own, tree_posterior, own.knn, _cpu]
    with builds[0].active():
        import biasgen as again
    assert len({id(part) for part in (biasgen, *seen)}) == 9
    assert again is seen[0]
    assert sys.modules["biasgen"] is biasgen
    assert not any(isinstance(finder, compare_builds.Build) for finder in sys.meta_path)


def test_another_answer_is_found(builds, monkeypatch):
    row = build_rows.EAGER["eager posterior, B=4"]
    assert min(compare_builds.compare(row, *builds, smoke=True)) > 0
    with builds[1].active():
        from biasgen import TreeGrammar
    right = TreeGrammar.posterior
    monkeypatch.setattr(
        TreeGrammar, "posterior", lambda self, field, levels: right(self, 1.01 * field, levels)
    )
    with pytest.raises(AssertionError, match="marginals"):
        compare_builds.compare(row, *builds, smoke=True)


def test_the_table(capsys):
    arguments = [str(compare_builds.ROOT), "--smoke", "--only", "eager posterior"]
    assert compare_builds.main(arguments) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("eager")]
    assert [line.split("  ")[0] for line in rows] == [f"eager posterior, B={B}" for B in (1, 4, 16)]
    ratios = [tuple(map(float, line.split()[-4:-1])) for line in rows]
    assert all(ratio == pytest.approx(new / old, abs=1e-2) for old, new, ratio in ratios)


def test_what_a_row_must_reach():
    verdict = compare_builds._verdict
    assert (
        verdict("hamming, L=16", 1.06, 1.05) == verdict("eager evaluate, 600 rows", 0.99, 1.0) == ""
    )
    assert (
        verdict("hamming, L=16", 1.08, 1.0)
        == verdict("eager evaluate, 600 rows", 1.01, 1.0)
        == "SLOWER"
    )
    assert verdict("hamming, L=16", 1.0, 1.08).startswith("void")


def test_a_checkout_that_is_not_built(tmp_path):
    with pytest.raises(ValueError, match=r"^OLD_CHECKOUT: want a clone with a \.venv"):
        compare_builds.Build(tmp_path)
