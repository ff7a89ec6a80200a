"""The only reader of os.environ: BIASGEN_BACKEND, BIASGEN_CPU_ISA, BIASGEN_NUM_THREADS, BIASGEN_REQUIRE_BACKENDS (tests), and Triton's own
TRITON_INTERPRET."""
import os

from biasgen._numbers import is_whole

_num_threads: int | None = None


def backend() -> str | None:
    """Name of the backend that every op must use, or None."""
    return os.environ.get("BIASGEN_BACKEND") or None


def cpu_isa() -> str | None:
    """Instruction-set level that the cpu backend must use ("baseline", "avx2", "avx512"), or None for the best."""
    return os.environ.get("BIASGEN_CPU_ISA") or None


def required_backends() -> tuple[str, ...]:
    """Backends whose absence fails the tests instead of skipping them."""
    return tuple(name for name in os.environ.get("BIASGEN_REQUIRE_BACKENDS", "").split(",") if name)


def triton_interpreted() -> bool:
    """Whether Triton interprets its kernels, on the CPU; it decides when a kernel is defined."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def set_num_threads(n: int) -> None:
    """Number of threads of the cpu backend from now on; overrides BIASGEN_NUM_THREADS."""
    global _num_threads
    if not is_whole(n, 1):
        raise ValueError(f"n: want a positive number of threads, got {n!r}")
    _num_threads = int(n)


def num_threads() -> int | None:
    """The number set by set_num_threads or BIASGEN_NUM_THREADS, or None (then torch's number is used)."""
    if _num_threads is not None:
        return _num_threads
    text = os.environ.get("BIASGEN_NUM_THREADS")
    return _positive(text, "BIASGEN_NUM_THREADS") if text else None


def _positive(value: int | str, name: str) -> int:
    try:
        n = int(value)
    except ValueError:
        n = 0
    if n < 1:
        raise ValueError(f"{name}: want a positive number of threads, got {value!r}")
    return n
