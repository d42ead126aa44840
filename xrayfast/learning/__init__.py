"""Networks, losses and training, in plain fastai objects. The only package that imports torch and fastai."""
