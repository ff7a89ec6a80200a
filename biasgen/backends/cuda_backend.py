"""Native CUDA kernels of biasgen._cuda, built only with BIASGEN_CUDA=ON. No op yet: the module holds a probe."""
try:
    from biasgen import _cuda
except ImportError:
    _cuda = None

DEVICES = ("cuda",)
OPS = {}


def probe() -> str | None:
    """Why this backend cannot run, or None."""
    return "_cuda is not built (BIASGEN_CUDA=ON)" if _cuda is None else _cuda.probe()
