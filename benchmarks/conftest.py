"""Options of the benchmarks: --smoke runs them at toy size without gates."""
import pytest

from benchmarks import harness


def pytest_addoption(parser):
    parser.addoption("--smoke", action="store_true", help="toy sizes, two rounds, no gates: does it run at all?")


@pytest.fixture(scope="session")
def smoke(request):
    return request.config.getoption("--smoke")


@pytest.fixture(scope="session", autouse=True)
def title():
    print(f"\n{harness.machine()}")
