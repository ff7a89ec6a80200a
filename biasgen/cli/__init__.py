"""The `biasgen` command: `demo`, `eval`, `nn`, `split`, `doctor`. Verbs import what they need when they run."""
import argparse
import importlib
import sys

from biasgen._version import __version__

_VERBS = ("demo", "eval", "nn", "split", "doctor")


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Exit status: 0 done, 1 it found something wrong, 2 bad usage or input, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="biasgen", description="Measures biased generalization of diffusion models.")
    parser.add_argument("--version", action="version", version=f"biasgen {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    runs = {}
    for name in _VERBS:
        module = importlib.import_module(f"biasgen.cli.{name}")
        summary = module.__doc__.splitlines()[0]
        module.add_arguments(verbs.add_parser(name, help=summary, description=summary))
        runs[name] = module.run
    arguments = parser.parse_args(argv)
    try:
        return runs[arguments.verb](arguments)
    except (ValueError, OSError) as error:
        print(f"biasgen {arguments.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"biasgen {arguments.verb}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
