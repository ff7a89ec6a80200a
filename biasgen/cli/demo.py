"""Train two small models on disjoint data and watch bias towards the training set grow (embedded data, minutes on two CPU cores)."""
import argparse
import importlib.util
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", choices=("tiny", "full"), default="full", help="tiny: under 30 s; full: under 5 minutes (default)")
    parser.add_argument("--seed", type=int, default=0, help="of data, networks and noise (default 0)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of record.jsonl, curves.png, neighbours.png (default demo)")
    parser.add_argument(
        "--control",
        choices=("fresh", "copies"),
        help="fresh: new rows at every step, must report no bias; copies: the same with 3 %% planted copies, must report them",
    )


def run(arguments: argparse.Namespace) -> int:
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("matplotlib is not installed, and the demo draws pictures: pip install 'biasgen[report]'")
    if not 0 <= arguments.seed < 1 << 62:
        raise ValueError(f"--seed: want an integer in [0, 2**62), got {arguments.seed}")
    from biasgen._progress import Progress
    from biasgen.experiments.tree import demo
    from biasgen.report import figures, records, table

    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    record = out / "record.jsonl"
    record.unlink(missing_ok=True)
    size = demo.SCALES[arguments.scale]
    print(f"Two equal networks, {size.rows} training sequences each, disjoint; {size.n_samples} samples a model and evaluation.")
    print(table.heading(), flush=True)
    with Progress(size.checkpoints[-1], "training") as bar:

        def show(evaluation: demo.Record) -> None:
            bar.clear()
            print(table.line(evaluation.as_dict()), flush=True)

        verdict = demo.run(
            scale=arguments.scale,
            seed=arguments.seed,
            control=arguments.control,
            record=record,
            on_step=lambda step, _: bar.update(step),
            on_record=show,
        )
    print(f"\n{verdict}")
    _, evaluations, _ = records.read_record(record)
    written = [record]
    if evaluations:
        figures.draw_curves(evaluations, out / "curves.png")
        figures.draw_neighbours(evaluations, out / "neighbours.png")
        written += [out / "curves.png", out / "neighbours.png"]
    print("Written: " + ", ".join(str(path) for path in written))
    return 0 if len(evaluations) == len(size.checkpoints) else 130
