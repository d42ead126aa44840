"""The line at the end of the fault campaign."""

from tests.faults.campaign import COUNTS


def pytest_terminal_summary(terminalreporter):
    """All parts in one line."""
    if COUNTS:
        terminalreporter.write_line("Faults: " + "; ".join(COUNTS) + ".")
