"""What networks start from besides torchvision: other runs, and networks of timm."""
