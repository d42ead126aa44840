"""Networks, losses and training, in plain fastai objects. The only package that imports torch and fastai."""

import xrayfast.cpus  # noqa: F401 - measures the load of the machine from here on, while torch is imported
