"""From a manifest, or the user's own DataLoaders, to batches on the device: reading, sampling, augmentation."""
