"""A disk cache of decoded images: each file is decoded once per image size and window.

- `image_cache`: `ImageCache` and, without a disk, `UncachedImages`; where training and audit get images from.
- `shards`: the file format. `index`: which shard holds an image. `folders`: where the shards lie; `xrayfast cache info`
  and `clear`. `shares`: a cache built on many machines.
- `decode_pool`: decodes in parallel; `decode_worker` is what each process runs; `locks` keeps concurrent runs apart.
"""
