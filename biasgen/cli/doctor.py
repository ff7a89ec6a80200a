"""Show versions, instruction sets, and which backend runs which op, with the reason where one does not."""
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
    return 0 if usable else 1
