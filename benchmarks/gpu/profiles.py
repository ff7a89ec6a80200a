"""Where time goes: torch.profiler of what users call, ncu of one launch of each kernel.

python -m benchmarks.gpu.profiles; the texts go to details.zip of gpu-check's folder.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu.folder import Folder
from benchmarks.gpu.measure import once_timed
from biasgen import EmpiricalDenoiser, TrainingSet, TreeDenoiser, TreeGrammar, knn
from biasgen.backends import _cuda_trees
from biasgen.diffusion.schedule import Schedule
from biasgen.trees.trajectories import launch_arguments

# Functions that ncu looks at, by what starts them.
KERNELS = {
    "nearest": "_nearest_kernel",
    "within": "_within_kernel",
    "weigh": "_weigh_kernel",
    "mean": "_mean_kernel",
    "paper tree": "paper_tree_kernel",
    "trajectory": "tree_trajectory_kernel",
}


def calls(device: str, B: int, N: int, M: int, D: int) -> dict[str, Callable[[], object]]:
    """Three calls as users write them: B noised strings, N images and M rows of D features."""
    level = Schedule.linear().at(50)
    x_t = torch.randn(B, 16, 6, device=device)
    rows = torch.randint(0, 256, (M, D), dtype=torch.uint8, device=device)
    query = rows[:N].clone()
    train, floats = TrainingSet(rows), rows / 127.5 - 1
    noised = level.scale * floats[:N] + level.sigma * torch.randn(N, D, device=device)
    tree, memory = TreeDenoiser(TreeGrammar.random()), EmpiricalDenoiser(floats)
    return {
        "TreeDenoiser": lambda: tree(x_t, level),
        "knn": lambda: knn(query, train),
        "EmpiricalDenoiser": lambda: memory(noised, level),
    }


def profiled(folder: Folder, name: str, call: Callable[[], object], device: str) -> dict:
    """Fields of a measurement: time of the third call, and the share of it in kernels."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    for _ in range(2):
        call()
    spent = once_timed(call, device)
    with torch.profiler.profile(activities=activities) as profile:
        once_timed(call, device)
    averages = profile.key_averages()
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    kind = getattr(torch.autograd.DeviceType, device.upper())
    busy = sum(getattr(event, own) for event in averages if event.device_type == kind) / 1000
    folder.keep({f"profiler/{name}.txt": averages.table(sort_by=own, row_limit=40)})
    return {"milliseconds": spent, "note": f"{busy:.4g} ms of it in kernels; details.zip: profiler"}


def launches(
    native, device: str, B: int, N: int, M: int, D: int
) -> dict[str, Callable[[], object]]:
    """One launch of each of KERNELS; called once before, they launch nothing else of these."""
    from benchmarks.gpu.tiles import slices
    from biasgen.triton_kernels import denoise_dense, nearest
    from biasgen.triton_kernels.within import Within

    query, reference = slices(N, D, device, 0), slices(M, D, device, 1)
    times = torch.ones(M, dtype=torch.int32, device=device)
    tile = nearest.TILES[1, False][0]
    limit = torch.full((N,), D * 10_000, dtype=torch.int64, device=device)
    x, rows = (part.high[:, :D].float() / 128 for part in (query, reference))
    factor, log_p, center = (torch.zeros(n, dtype=torch.float64, device=device) for n in (N, M, D))
    squares, x = rows.double().square().sum(1), x.double() / D
    memory = M * (4 * denoise_dense.PANEL + 64) * N
    grammar, schedule = TreeGrammar.random(), Schedule.linear()
    field = torch.randn(B, 16, 6, device=device)
    levels, begin = launch_arguments(
        grammar, schedule, steps=20, start=None, t_start=None, device=torch.device(device)
    )

    def sums():
        return denoise_dense.weighted(x, factor, rows, center, squares, log_p, memory)

    return {
        "nearest": lambda: nearest._launch(query, reference, times, 1, tile),
        "within": lambda: Within(query, reference, times, limit - 1, limit),
        "weigh": sums,  # and mean
        "paper tree": lambda: _cuda_trees.tree_posterior(native, field, grammar.tree),
        "trajectory": lambda: _cuda_trees.tree_trajectory(
            native,
            grammar.tree,
            levels,
            n=B,
            device=torch.device(device),
            **begin,
        ),
    }


def launch_all() -> None:
    """The program that ncu looks at: each launch once before, then between marks of its own."""
    from biasgen import _cuda

    for launch in launches(_cuda, "cuda", 2**18, 4096, 16_384, 3072).values():
        launch()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        launch()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


def counters(folder: Folder, tool: str | None, program: list[str]) -> dict:
    """Fields of a measurement: what ncu saw, or a sentence why it saw nothing."""
    if tool is None:
        return {"missing": "ncu is not on this machine"}
    command = [
        tool,
        "--set",
        "full",
        "--csv",
        "--page",
        "details",
        "--clock-control",
        "none",
        "--profile-from-start",
        "off",
        "--kernel-name",
        f"regex:{'|'.join(KERNELS.values())}",
        *program,
    ]
    with tempfile.TemporaryDirectory() as directory:  # where ncu keeps a lock
        env = os.environ | {"TMPDIR": directory}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    lines = done.stdout.splitlines()
    table = [line for line in lines if line.startswith('"')]
    seen = [name for name, kernel in KERNELS.items() if any(kernel in line for line in table)]
    if not seen:
        errors = [line for line in lines + done.stderr.splitlines() if "ERROR" in line]
        why = (
            re.sub("^=+ *ERROR=* *", "", errors[0]) if errors else f"exit status {done.returncode}"
        )
        return {"missing": f"ncu counted nothing: {why[:160]}"}
    folder.keep({"ncu.csv": "\n".join(table) + "\n"})
    lost = [name for name in KERNELS if name not in seen]
    assert not lost, f"ncu did not see {', '.join(lost)}"
    return {"value": len(seen), "unit": "kernels", "note": "details.zip: ncu.csv"}


def run(
    folder: Folder, device: str, sizes: tuple[int, int, int, int], tool: str | None, program
) -> None:
    for name, call in calls(device, *sizes).items():
        folder.once(f"user call {name}", partial(profiled, folder, name, call, device))
    folder.once("counters of ncu", partial(counters, folder, tool, program))


def main() -> None:
    if sys.argv[1:] == ["launches"]:
        launch_all()
        return
    folder = Folder.of_step()
    program = [sys.executable, "-m", "benchmarks.gpu.profiles", "launches"]
    run(folder, "cuda", (2**16, 4096, 65_536, 3072), shutil.which("ncu"), program)
    sys.exit(folder.failures > 0)


if __name__ == "__main__":
    main()
