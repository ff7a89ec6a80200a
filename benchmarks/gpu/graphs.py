"""What a caller's stream, a CUDA graph, a second device and a full memory do to the ops.

python -m benchmarks.gpu.graphs. `record(work)` captures a call and gives its outputs and what
replays it; the checks take it as an argument, so that they run on the CPU with a stand-in.
"""

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.gpu.folder import Folder
from biasgen import knn
from biasgen.data.training_set import TrainingSet
from biasgen.trees.grammar import TreeGrammar

Tensors = tuple[torch.Tensor, ...]
Record = Callable[[Callable[[], Tensors]], tuple[Tensors, Callable[[], object]]]
Case = tuple[
    str, Callable[[torch.Tensor], Tensors], torch.Tensor, torch.Tensor
]  # name, work, its input, another input
SEARCHED = (  # distance, levels, features, k
    ("sqeuclidean", 256, 100, 1),
    ("sqeuclidean", 256, 3072, 16),
    ("euclidean", 256, 200, 3),
    ("hamming", 6, 16, 1),
    ("hamming", 6, 16, 64),
)


def cuda_graph(work: Callable[[], Tensors]) -> tuple[Tensors, Callable[[], object]]:
    """Records `work`, called twice before on another stream, as torch wants it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = work()
    return outputs, graph.replay


def searches(device: str, backend: str, N: int, M: int) -> Iterator[Case]:
    """Searches in rows prepared before, with duplicates."""
    random = torch.Generator().manual_seed(0)
    for distance, levels, features, k in SEARCHED:
        rows, first, second = (
            torch.randint(0, levels, (n, features), generator=random, dtype=torch.uint8)
            for n in (M, N, N)
        )
        rows[M // 2 :] = rows[: M - M // 2].clone()
        second[::2] = rows[: len(second[::2])]
        train = TrainingSet(rows.to(device), distance)

        def search(query, train=train, k=k):
            found = knn(query, train, k, backend=backend)
            return found.distances, found.indices, found.tie_counts

        yield f"{distance}, D = {features}, k = {k}", search, first.to(device), second.to(device)


def posteriors(device: str, B: int) -> Iterator[Case]:
    """Tree posteriors: the paper's grammar, and rules read at run time."""
    random = torch.Generator().manual_seed(0)
    for grammar in (TreeGrammar.random(), TreeGrammar.random(q=7, depth=5, q_eff=3)):
        first, second = (
            5 * torch.randn(B, grammar.length, grammar.q, generator=random) for _ in range(2)
        )

        def posterior(field, grammar=grammar):
            found = grammar.posterior(field)
            return found.marginals, found.log_z, found.impossible

        yield f"tree posterior, Q = {grammar.q}", posterior, first.to(device), second.to(device)


def check_replay(
    record: Record,
    work: Callable[[torch.Tensor], Tensors],
    first: torch.Tensor,
    second: torch.Tensor,
) -> None:
    """A graph of the first inputs, replayed after others were copied in, is as right as a call."""
    expected = [work(given) for given in (first, second)]
    given = first.clone()
    outputs, replay = record(lambda: work(given))
    for now, right in ((second, expected[1]), (first, expected[0])):
        given.copy_(now)
        replay()
        for found, wanted in zip(outputs, right, strict=True):
            assert torch.equal(found, wanted), "a replay differs from an eager call"


def check_refusal(record: Record, device: str) -> None:
    """A search of floats is refused while it is captured, in words, and runs afterwards."""
    rows = torch.rand(100, 20, device=device)
    train = TrainingSet(rows)
    message = ""
    try:
        record(lambda: (knn(rows, train).distances,))
    except ValueError as error:
        message = str(error)
    assert message.startswith("query: want uint8 rows"), f"not refused: {message}"
    assert float(knn(rows, train).distances.max()) == 0


def check_side_stream(
    work: Callable[[torch.Tensor], Tensors], first: torch.Tensor, second: torch.Tensor
) -> None:
    """A call on a stream that is busy, and writes its inputs last, waits for it, for no other."""
    right, given = work(second), first.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(100_000_000)
        given.copy_(second)
        found = work(given)
        kept = [part.clone() for part in found]
    torch.cuda.current_stream().wait_stream(side)
    assert all(torch.equal(part, wanted) for part, wanted in zip(kept, right, strict=True)), (
        "a call left the caller's stream"
    )


def check_second_device(work: Callable[[torch.Tensor], Tensors], first: torch.Tensor) -> None:
    """Rows on device 1 while device 0 is current: answers there, and equal.

    work: of fresh constants on the device of its input.
    """
    right = work(first)
    found = work(first.to("cuda:1"))
    assert all(
        part.device.index == 1 and torch.equal(part.to(first.device), wanted)
        for part, wanted in zip(found, right, strict=True)
    )


def check_out_of_memory(search: Callable[[int], object], limit: int) -> None:
    """search(max_memory) with far too much names what it wanted and a max_memory that does."""
    message = ""
    try:
        search(limit)
    except torch.OutOfMemoryError as error:
        message = str(error)
    advice = re.match(
        r"^max_memory: wanted [\d.]+ \w+ on \S+, which has room for \d+ bytes: "
        r"max_memory=(\d+) would do$",
        message,
    )
    assert advice, f"out of memory said: {message or 'nothing'}"
    search(int(advice[1]))


def check_case(
    work: Callable[[torch.Tensor], Tensors], first: torch.Tensor, second: torch.Tensor
) -> str:
    """One call, replayed and on a side stream."""
    check_replay(cuda_graph, work, first, second)
    check_side_stream(work, first, second)
    return "replayed and on a side stream, equal to eager calls"


def check_two_devices() -> str:
    """Searches and trees of another device than the current one."""
    if torch.cuda.device_count() == 1:
        return "one device here: the check of two did not run"
    rows = torch.randint(0, 256, (500, 64), dtype=torch.uint8, device="cuda:0")

    def search(query):
        return (knn(query, TrainingSet(rows.to(query.device))).distances,)

    check_second_device(search, rows[:50])
    for _, posterior, field, _ in posteriors("cuda", 100):
        check_second_device(posterior, field)
    return "two devices in one process: equal"


def check_full_memory(left: int = 600 << 20) -> None:
    """With all but `left` bytes of the device taken, by rows whose pairs are all open."""
    rows = torch.rand(40_000, 8, device="cuda")
    same = torch.zeros(20_000, 8, device="cuda")
    train = TrainingSet(rows * 1e-6)
    knn(same[:10], train)
    torch.cuda.empty_cache()
    taken = torch.empty(torch.cuda.mem_get_info()[0] - left, dtype=torch.uint8, device="cuda")
    check_out_of_memory(
        lambda max_memory: knn(same, train, 64, backend="torch", max_memory=max_memory), 1 << 40
    )
    del taken


def run(folder: Folder) -> None:
    for name, *case in (*searches("cuda", "triton", 700, 20_000), *posteriors("cuda", 1000)):
        folder.once(name, partial(check_case, *case))
    folder.once("floats are refused under capture", lambda: check_refusal(cuda_graph, "cuda"))
    folder.once("two devices", check_two_devices)
    folder.once("out of memory names a max_memory that does", check_full_memory)


def main() -> None:
    folder = Folder.of_step()
    run(folder)
    sys.exit(folder.failures > 0)


if __name__ == "__main__":
    main()
