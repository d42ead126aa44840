"""From files on disk to image records: `read.read_source`.

- `class_folders`: `layout` there decides between them and `label_table`, `levels` which folders are the classes.
- A table is read by `tables`, its columns are resolved by `columns`, its files are found by `locate` (`file_matching`),
  its label cells are parsed by `labels.cells`, and `label_table` builds the records.
- `datasets`: what is particular to a public data set.
- `column_words`: the words in names of columns that tell what they hold.
- `identifiers`: spellings of patients and studies, and columns that look like them.
- `patients`: patients from file names and DICOM headers.
- `split_files`: a run's split.csv, or a list such as test_list.txt.
"""
