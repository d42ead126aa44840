"""All networks, for tests of each one."""

import pytest

from xrayfast.learning.model.backbones import BACKBONES

# vgg16_bn has all that vgg16 has, and one of the two takes seconds; resnet34 is resnet18 with more blocks of its kind.
ARCHS = [pytest.param(arch, marks=[pytest.mark.slow] * (arch in ("vgg16", "resnet34"))) for arch in BACKBONES]
