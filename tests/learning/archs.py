"""All networks, for tests of each one."""

import pytest

from xrayfast.learning.model.backbones import BACKBONES

# vgg16_bn has all that vgg16 has, and one of the two takes seconds.
ARCHS = [pytest.param(arch, marks=[pytest.mark.slow] * (arch == "vgg16")) for arch in BACKBONES]
