"""In the guest: writes what came of each phase of each test, one JSON object a line."""

from __future__ import annotations

import json
import os

import pytest


def reason(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    line = {
        "nodeid": report.nodeid,
        "when": report.when,
        "outcome": report.outcome,
        "text": reason(report),
        "wasxfail": getattr(report, "wasxfail", None),
        "sections": report.sections,
    }
    with open(os.environ["GPUDISAGG_GUEST_REPORTS"], "a") as file:
        file.write(json.dumps(line) + "\n")
