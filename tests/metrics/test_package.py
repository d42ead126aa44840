import subprocess
import sys

import pytest

MODULES = ("bootstrap", "calibration", "comparison", "delong", "proportions", "reliability", "thresholds")


@pytest.mark.parametrize("heavy", ["scipy", "sklearn"])
def test_importing_the_metrics_loads_nothing_but_numpy(heavy):
    script = "import sys\n" + "".join(f"import xrayfast.metrics.{name}\n" for name in MODULES)
    subprocess.run([sys.executable, "-c", f"{script}assert {heavy!r} not in sys.modules"], check=True, timeout=60)
