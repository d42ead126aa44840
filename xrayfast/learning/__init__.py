"""Networks, losses and training, as plain fastai objects. The only package that imports torch and fastai."""

import xrayfast.cpus  # noqa: F401 - starts to measure the load of the machine before torch is imported
