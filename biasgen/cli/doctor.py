"""Show versions, instruction sets, what each backend takes or why it cannot run, and which one runs each op on the CPU and on CUDA."""
import argparse
import platform


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from biasgen import _settings, backends
    from biasgen._version import __version__

    print(f"biasgen {__version__}, Python {platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}")
    threads = _settings.num_threads() or torch.get_num_threads()
    print(f"threads: {threads}   BIASGEN_BACKEND={_settings.backend() or ''}   BIASGEN_CPU_ISA={_settings.cpu_isa() or ''}\n")
    usable = False
    for name in backends.ORDER:
        module, why = backends.load(name)
        if module is None:
            print(f"{name:6} not usable: {why}")
            continue
        usable = True
        print(f"{name:6} usable on {', '.join(module.DEVICES)}" + (f", instruction set {module.isa()}" if module.isa() else ""))
        for op, takes in module.OPS.items():
            print(f"       {op:16} {', '.join(takes['distances']) or '-':24} {', '.join(takes['dtypes'])}")
    print(f"\n{'op':22} {'tensors on the CPU':40} tensors on a CUDA device")
    for op in backends.load("torch")[0].OPS:
        on_cuda = chosen(op, "cuda") if torch.cuda.is_available() else "no CUDA device here"
        print(f"{op:22} {chosen(op, 'cpu'):40} {on_cuda}")
    return 0 if usable else 1


def chosen(op: str, device: str) -> str:
    """The backend that runs `op` on tensors of a device, "triton; torch for cityblock" where it
    depends on the distance or element type."""
    from biasgen import backends, distances
    from biasgen.ops._dispatch import choose

    takes = backends.load("torch")[0].OPS[op]  # everything
    names = {}
    for distance in takes["distances"] or (None,):
        ordered_by = distances.get(distance).ordered_by if distance and op == "knn" else distance
        for dtype in takes["dtypes"]:
            if op == "empirical_denoise" or distance is None or dtype in distances.get(distance).dtypes:  # there dtype is that of x_t
                try:
                    name = choose(op, device=device, dtype=dtype, distance=ordered_by)[0]
                except ValueError:
                    name = "none"
                names.setdefault(name, []).append(distance or dtype)
    usual, *others = sorted(names, key=lambda name: -len(names[name]))
    return "; ".join([usual, *(f"{name} for {', '.join(dict.fromkeys(names[name]))}" for name in others)])
