"""Files in archives and objects in remote buckets, used through ordinary paths.

An archive acts as a folder of its members: `images.zip/normal/1.png`. A remote object's path is its address:
`s3://bucket/1.png`, or, inside a remote archive, `s3://bucket/images.tar/1.png`. Code that works with paths therefore
works with these too.

- `paths`: `to_path` turns such a text into a `Path` whose methods, such as `stat` and `open`, support these files.
- `near_names`: suggestions for a path that does not exist.
- `access`: state, content and folders of any path, including plain files; used by everything else.
- `archives`: zip and tar files; nothing is ever unpacked to disk.
- `indexes`: the members of an archive, listed once and cached.
- `remote`: objects accessed through fsspec; errors are retried, and messages never quote the server's response.
- `addresses`: properties of a path's text alone: remote, in an archive, absolute, signed.
"""
