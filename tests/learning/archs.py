"""All networks, for tests that run on each one."""

import pytest

from xrayfast.learning.model.backbones import BACKBONES

# vgg16_bn contains all of vgg16, and each of them takes seconds; resnet34 is resnet18 with more of the same blocks.
ARCHS = [pytest.param(arch, marks=[pytest.mark.slow] * (arch in ("vgg16", "resnet34"))) for arch in BACKBONES]
