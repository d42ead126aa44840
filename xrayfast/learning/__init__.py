"""Networks, losses and training, as plain fastai objects. The only package that imports fastai."""

from xrayfast.cpus import choose_waiting

choose_waiting()  # before torch is imported, since it decides then how its threads wait
