"""Read and write the files of users and runs: inputs are checked first, outputs are written completely or not at all.

- Reading: `regular_files` checks files before they are opened, `plain_yaml` and `csv_tables` parse them, and `intact`
  compares a run's files with their recorded checksums.
- Writing: `writable` checks where files may be written, `atomic` writes them, `checksums` records their checksums, and
  `run_lock` lets only one process at a time write to a run.
- `virtual/`: files in archives and remote buckets.
"""
