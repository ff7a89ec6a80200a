"""What a process may do around a search: fork after it, interrupt it, be called from a thread of its own."""
import os
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

import numpy as np
import pytest

from biasgen import _settings, backends, knn
from biasgen.backends import cpu_backend
from biasgen.backends._blocks import run_blocks

BACKENDS = [name for name in ("cpu", "torch") if backends.load(name)[0] or name in _settings.required_backends()]
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "passive"}    # where cores are few, threads that spin take them from those that work

FORK = """
import os, signal, sys
import numpy as np, torch
import biasgen

torch.set_num_threads(2)
biasgen.set_num_threads(2)
rng = np.random.default_rng(0)
backend = sys.argv[1]
grammar = biasgen.TreeGrammar.random()
field, floats = rng.normal(size=(700, 16, 6)), rng.normal(size=(1100, 32))
sets = floats, floats.astype(np.float32), rng.integers(0, 256, (1100, 32)).astype(np.uint8), rng.integers(0, 6, (1100, 32))
denoiser, level = biasgen.EmpiricalDenoiser(floats), biasgen.Schedule.linear().at(100)

def everything():
    for rows in sets:
        train = biasgen.TrainingSet(rows[:60])
        yield train.knn(rows, 3, backend=backend).indices
        yield biasgen.nearest_credit(rows, train, backend=backend).weights
        yield biasgen.range_count(rows[:30], rows, 8.0)
        yield biasgen.pairwise_distances(rows, rows[:30])
        yield biasgen.paired_distances(rows, rows[::-1])
    yield biasgen.ops.tree_posterior.tree_posterior(field, grammar.tree, backend=backend).log_z
    yield denoiser(floats, level)

def answers():
    return [values.tobytes() for values in everything()]

torch.ones(1 << 20).add_(1).sum()    # torch's threads are there
before = answers()
child = os.fork()
if not child:
    signal.alarm(120)                # a child that waits for threads it does not have is killed
    same = answers() == before and torch.get_num_threads() == 2
    os._exit(0 if same else 3)
_, status = os.waitpid(child, 0)
assert status == 0, f"the child ended with {status}"
assert answers() == before
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forked_child(backend):
    """Threads of torch and of the pool have worked in the parent, and do not exist in the child."""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, backend], check=True, timeout=400, env=ENVIRONMENT)


@pytest.fixture
def ctrl_c():
    """Interrupts the main thread when called, from any thread."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)     # a job in the background inherits an ignored one
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("threads", "slow"), [(2, False), (1, True), (2, True)])
def test_an_interrupt_does_not_wait_for_the_blocks_in_flight(ctrl_c, threads, slow):
    finish, ended, begun = threading.Event(), threading.Event(), []

    def work(start, stop):
        begun.append(start)
        if start == 0:
            time.sleep(0.1)    # the caller waits by then
            ctrl_c()
        assert finish.wait(60)
        ended.set()

    with mock.patch.object(_settings, "_num_threads", threads), pytest.raises(KeyboardInterrupt):
        run_blocks(work, 50, 1, slow=slow)
    assert not ended.is_set()
    finish.set()
    assert ended.wait(60)
    assert len(begun) <= threads, "blocks that had not begun are cancelled"


def test_an_error_of_a_block_waits_for_the_others():
    """So that nothing is written behind the caller's back."""
    other, ended = threading.Event(), []

    def work(start, stop):
        if start == 0:
            other.wait(60)
            raise ValueError("block 0")
        other.set()
        time.sleep(0.05)
        ended.append(start)

    with mock.patch.object(_settings, "_num_threads", 2), pytest.raises(ValueError, match="block 0"):
        run_blocks(work, 2, 1)
    assert ended == [1]


@pytest.mark.skipif("cpu" not in BACKENDS, reason="biasgen._cpu is not built")
def test_an_interrupted_search(ctrl_c):
    """One thread, one block: the search itself comes to no end, the caller returns, and the next call is right."""
    rows = np.random.default_rng(0).integers(0, 256, (300, 64)).astype(np.uint8)
    expected, finish, native = knn(rows, rows, 2), threading.Event(), cpu_backend._cpu.knn

    def endless(*operands):
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.1)    # the caller waits by then
        ctrl_c()
        finish.wait(60)
        native(*operands)

    with (
        mock.patch.object(_settings, "_num_threads", 1),
        mock.patch.object(cpu_backend, "SLOW_BLOCK", 1),
        mock.patch.object(cpu_backend._cpu, "knn", endless),
        pytest.raises(KeyboardInterrupt),
    ):
        knn(rows, rows, 2, backend="cpu")
    again = knn(rows, rows, 2, backend="cpu")
    finish.set()
    np.testing.assert_array_equal(again.distances, expected.distances)
    np.testing.assert_array_equal(again.indices, expected.indices)


INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
import biasgen

class Bar:
    def update(self, done):
        print(done, flush=True)

rows = np.random.default_rng(0).integers(0, 256, (400_000, 64)).astype(np.uint8)
out = np.full((400_000, 1), -1)
try:
    out[:] = biasgen.knn(rows, rows, progress=Bar()).indices
except KeyboardInterrupt:
    print("interrupted", out.min() == out.max() == -1, flush=True)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_ctrl_c_in_the_middle(threads):
    """A search of minutes, from outside: after its first sign of progress it ends by the interrupt, with nothing half written."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True, env=os.environ | {"BIASGEN_NUM_THREADS": threads}
    )
    try:
        assert process.stdout.readline() == "4096\n"
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest.splitlines()[-1] == "interrupted True"
    assert len(rest.splitlines()) < 20
