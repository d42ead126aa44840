"""Files that are no plain files: members of archives, and objects in remote buckets.

An archive is a folder of its members: `images.zip/normal/1.png`. A remote object is its address: `s3://bucket/1.png`,
or, in an archive there, `s3://bucket/images.tar/1.png`. So whatever works with paths works with these.

- `paths`: `to_path`, which makes a `Path` of such a text; its methods, such as `stat` and `open`, know these files.
- `near_names`: what a path that leads to nothing may have been meant for.
- `access`: state, content and folders of any path, plain ones too; what everything else calls.
- `archives`: zip and tar files; nothing is ever unpacked to the disk.
- `indexes`: the members of an archive, listed once and kept in the cache's folder.
- `remote`: objects through fsspec; errors are retried, and never quote what the server said.
- `addresses`: what such a text says by itself: remote, in an archive, absolute, signed.
"""
