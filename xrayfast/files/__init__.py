"""Files of users and of runs: checked before they are read, written whole or not at all.

Read: `regular_files` before anything is opened, `plain_yaml`, `csv_tables`; `intact` whether it is as it was written.
Written: `writable` whether it may be, `atomic`, `checksums` of it, `run_lock` by one process at a time.
`virtual/` has what is no plain file.
"""
