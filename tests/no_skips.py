"""``pytest --no-skips``: what would be skipped fails, because nobody sees in a run that passes what it left out."""

from __future__ import annotations

from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option."""
    parser.addoption("--no-skips", action="store_true", help="what would be skipped fails")


def pytest_configure(config: pytest.Config) -> None:
    """Watch only where that is wanted."""
    if config.getoption("--no-skips"):
        config.pluginmanager.register(_NoSkips())


class _NoSkips:
    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        # An expected failure is reported as skipped, too.
        if not hasattr(report, "wasxfail"):
            _fail(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        _fail(report)
        return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped:
        assert isinstance(report.longrepr, tuple)
        report.outcome = "failed"
        report.longrepr = "--no-skips: " + report.longrepr[2]
