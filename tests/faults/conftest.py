"""The summary line of the fault campaign."""

from tests.faults.campaign import COUNTS


def pytest_terminal_summary(terminalreporter):
    """Print the results of all parts on one line."""
    if COUNTS:
        terminalreporter.write_line("Faults: " + "; ".join(COUNTS) + ".")
