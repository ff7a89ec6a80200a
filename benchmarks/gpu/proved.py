"""A pytest plugin (-p benchmarks.gpu.proved): it leaves out tests that a folder proves.

A test is recorded as soon as it has passed or failed. With pytest-xdist the controller alone reads
and writes the folder; it tells its workers which tests to leave out, so that all collect the same.
"""

import pytest

from benchmarks.gpu.folder import Folder


class Proved:
    """folder: of the step, none in a worker; left_out: the names of the tests that are proved."""

    def __init__(self, config: pytest.Config) -> None:
        given = getattr(config, "workerinput", None)
        self.folder = Folder(None) if given else Folder.of_step()
        self.left_out = set(given["proved"]) if given else self.folder.proved
        self.called: dict[str, float] = {}  # seconds of a call that has passed
        self.failed: set[str] = set()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list) -> None:
        out = [item for item in items if item.nodeid in self.left_out]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item.nodeid not in self.left_out]

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node) -> None:
        node.workerinput["proved"] = sorted(self.left_out)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has passed when its call and its teardown have; a skipped one proves nothing."""
        test = report.nodeid
        if report.failed and test not in self.failed:
            self.failed.add(test)
            crash = getattr(report.longrepr, "reprcrash", None)
            why = str(crash.message if crash else report.longrepr).splitlines() or [""]
            self.folder.add(step=self.folder.step, failed=test, why=why[0][:200])
        if report.when == "call" and report.passed:
            self.called[test] = round(report.duration, 2)
        if report.when == "teardown" and test in self.called.keys() - self.failed:
            self.folder.add(step=self.folder.step, passed=test, seconds=self.called[test])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.folder.add(
                step=self.folder.step, failed=report.nodeid, why="it cannot be collected"
            )

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Where all tests had passed before, the step passes."""
        if self.left_out and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Proved(config), "gpu-check-proved")
