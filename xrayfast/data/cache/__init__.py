"""A disk cache of decoded images: each file is decoded once per image size and window.

- `image_cache`: `ImageCache` and, without a disk, `UncachedImages`; training and audit get their images from these.
- `shards`: the file format. `index`: finds the shard of an image. `folders`: where the shards are; `xrayfast cache
  info` and `clear`. `shares`: a cache built on many machines.
- `decode_pool`: decodes in parallel; `decode_worker` is what each process runs; with `locks`, concurrent runs share
  the work.

An image that can't be read is a ReadError, a file of the cache that can't be read a DataError, one that can't be
written a WriteError, and an invalid window a ConfigError.
"""
