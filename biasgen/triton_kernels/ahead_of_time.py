"""Compiles the kernels as they are launched, for a compute capability and without a device."""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from biasgen.triton_kernels import denoise_dense, denoise_listed, exact_values, nearest, within
from biasgen.triton_kernels._tile import _DEPTH, OPTIONS, STEP

_RESIDENT_D = 128
_SEARCH = {
    **dict.fromkeys(("query", "query_low", "reference", "reference_low"), "*i8"),
    **{"norms": "*key", "D": "i32", "stride": "i32", "multiplicity": "*i32"},
}
_SIZES = {"N": "i32", "M": "i32", "share": "i32"}
_NEAREST = _SEARCH | {"best_keys": "*key", "best_rows": "*i32", "tie_rows": "*i32", "tie_counts": "*i64"} | _SIZES
_WITHIN = {"near": "*key", "far": "*key", "weights": "*i64", "counts": "*i32", "starts": "*i64", "rows": "*i32"}
_VALUES = {"query": "*fp64", "reference": "*fp32", "queries": "*i64", "rows": "*i64", "values": "*fp64", "P": "i32", "D": "i32"}
_COUNTS = dict.fromkeys(("N", "M", "P", "first", "D", "panels"), "i32")
_DENSE = dict.fromkeys(("query", "factor", "center", "squares", "log_p", "tops", "totals", "total_squares"), "*fp64")
_DENSE |= dict.fromkeys(("kept", "factors", "sums", "total", "sum_of_squares"), "*fp64") | {"weights": "*fp32"}
_LISTED = dict.fromkeys(("query", "scale", "center", "squares", "weights", "sums", "total", "sum_of_squares"), "*fp64")
_LISTED |= dict.fromkeys(("queries", "listed", "starts"), "*i64")
_ROWS = {  # what rows are compiled for: two slices, int64 keys, tokens, queries held on the chip
    "int8": (False, False, False, False),
    "int8, D <= 128": (False, False, False, True),
    "int8, D > 32 768": (False, True, False, False),
    "two slices": (True, True, False, False),
    "two slices, D <= 128": (True, True, False, True),
    "tokens": (False, False, True, False),
}


def kernels() -> dict[str, tuple]:
    """By name: kernel, types of its arguments, compile-time constants, options."""
    table = {}
    for rows, (two, wide, tokens, resident) in _ROWS.items():
        large = wide or tokens
        constants = {
            "TWO": two, "WIDE": wide, "TOKENS": tokens, "RESIDENT": resident,
            "TILE_D": _RESIDENT_D if resident else STEP, "DEPTH": _DEPTH,
        }  # fmt: skip
        key = "i64" if wide else "i32"
        for kept in (1, 16, 64):
            types = {name: type.replace("key", key) for name, type in _NEAREST.items()}
            for tile in nearest.TILES[kept, large]:
                sizes = {"K": kept, "TILE_N": tile.n, "TILE_M": tile.m}
                table[f"nearest {kept}, {rows}, {tile.n} x {tile.m}"] = nearest._nearest_kernel, types, constants | sizes, OPTIONS
        for verb, listing in (("count", False), ("list", True)):
            tile = within.TILES[listing, large]
            types = {name: type.replace("key", key) for name, type in (_SEARCH | _WITHIN | _SIZES).items()}
            sizes = {"LIST": listing, "TILE_N": tile.n, "TILE_M": tile.m}
            table[f"{verb} within, {rows}, {tile.n} x {tile.m}"] = within._within_kernel, types, constants | sizes, OPTIONS
    for type in ("fp32", "fp64"):
        types = _VALUES | {"reference": f"*{type}"}
        table[f"squared, {type}"] = exact_values._values_kernel, types, {"TILE_P": exact_values.TILE_P}, exact_values.OPTIONS
        for verb, kernel, module, types in (
            ("weigh", denoise_dense._weigh_kernel, denoise_dense, _DENSE),
            ("mean", denoise_dense._mean_kernel, denoise_dense, _DENSE),
            ("squares of listed", denoise_listed._squares_kernel, denoise_listed, _LISTED),
            ("mean of listed", denoise_listed._sums_kernel, denoise_listed, _LISTED),
        ):
            known = types | _COUNTS | {"rows": f"*{type}"}
            types = {name: known[name] for name in kernel.arg_names if name in known}
            constants = {name: getattr(module, name) for name in kernel.arg_names if name not in types}
            table[f"{verb}, {type}"] = kernel, types, constants, module.OPTIONS
    return table


def source(name: str) -> ASTSource:
    """The kernel called `name` as a launch compiles it: tests/test_triton_launches.py compares.

    Pointers and sizes that Triton looks at are multiples of 16, except the sizes of tokens: rows are
    padded, and those of the denoiser usually are as long.
    """
    kernel, types, constants, _ = kernels()[name]
    uneven = {"D", "stride"} if constants.get("TOKENS") else set()
    aligned = {
        (param.num,): [["tt.divisibility", 16]]
        for param in kernel.params
        if param.name in types.keys() - uneven
        and not (param.do_not_specialize or param.do_not_specialize_on_alignment)
    }
    signature = types | dict.fromkeys(constants, "constexpr")
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)


def compile_for(name: str, capability: int) -> CompiledKernel:
    """The kernel called `name`, for a compute capability (80, 90)."""
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source(name), target=target, options=kernels()[name][3])
