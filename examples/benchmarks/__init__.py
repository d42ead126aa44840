"""xrayfast timed beside fastai's recipe, torchvision's loop, timm, and the limit of the machine."""
