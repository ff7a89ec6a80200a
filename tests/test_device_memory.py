"""Out of memory on a CUDA device, with a stand-in for one: what was wanted, and the max_memory that would do."""
import pytest
import torch

from biasgen import TrainingSet, knn
from biasgen.backends import torch_backend
from biasgen.backends._mode import memory_named

TORCH = "CUDA out of memory. Tried to allocate 20.50 MiB. GPU 0 has a total capacity of 79.1 GiB of which 9.0 MiB is free."


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """A device with 1000 bytes free, and 300 of 500 reserved ones in use."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)


def run_out(*_):
    raise torch.OutOfMemoryError(TORCH)


def test_the_search_names_what_it_wanted_and_what_would_do(monkeypatch):
    monkeypatch.setattr(torch_backend, "knn", run_out)
    wanted = r"^max_memory: wanted 20.50 MiB on cpu, which has room for 1200 bytes: max_memory=600 would do$"
    for reference in (torch.zeros(3, 2), TrainingSet(torch.zeros(3, 2))):
        with pytest.raises(torch.OutOfMemoryError, match=wanted) as caught:
            knn(torch.zeros(1, 2), reference, backend="torch")
    assert TORCH in str(caught.value.__cause__)


def test_no_max_memory_is_promised_where_none_would_do():
    with pytest.raises(torch.OutOfMemoryError, match=r"no max_memory changes it$"), memory_named(torch.device("cuda:0"), bounded=False):
        run_out()
    with pytest.raises(torch.OutOfMemoryError, match=r"^max_memory: wanted more on cuda:0"), memory_named(torch.device("cuda:0")):
        raise torch.OutOfMemoryError("in other words")
    with pytest.raises(RuntimeError, match=r"^another$"), memory_named(torch.device("cpu")):
        raise RuntimeError("another")
