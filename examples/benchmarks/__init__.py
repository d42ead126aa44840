"""Benchmarks of xrayfast against fastai's recipe, torchvision's loop, timm, and the compute-only limit."""
