"""What networks start from besides torchvision's weights and files: other runs."""
