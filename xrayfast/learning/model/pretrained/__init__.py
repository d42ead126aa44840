"""Pretrained weights and networks that are not torchvision's: other runs, timm, torchxrayvision."""
