"""Turn files on disk into image records; the entry point is `read.read_source`.

- `class_folders`: `layout` decides between class folders and a label table; `levels` decides which folders are the
  classes.
- For a table, `tables` reads it, `columns` decides which column holds what, `locate` finds the image files (with
  `file_matching` and `path_index`), `labels` parses the label cells, and `label_table` builds the records.
- `folder_tree`: lists the files of a folder tree, for class folders and for tables.
- `datasets`: the specifics of each public data set.
- `column_words`: the words in column names that tell what a column holds.
- `identifiers`: spellings of patient and study identifiers, and columns that look like identifiers.
- `patients`: patients and studies from file names and DICOM headers, and groups of images by these.
- `split_files`: a run's split.csv, or a list such as test_list.txt.
"""
