import subprocess
import sys

import pytest

MODULES = (
    *("intervals.bootstrap", "intervals.paired_tests", "intervals.delong", "operating_points.calibration"),
    *("operating_points.thresholds", "proportions", "reliability"),
)


@pytest.mark.parametrize("heavy", ["scipy", "sklearn"])
def test_importing_the_metrics_loads_nothing_but_numpy(heavy):
    script = "import sys\n" + "".join(f"import xrayfast.metrics.{name}\n" for name in MODULES)
    subprocess.run([sys.executable, "-c", f"{script}assert {heavy!r} not in sys.modules"], check=True, timeout=300)
