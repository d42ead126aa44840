"""Turn files on disk into a table of images with labels and splits, using numpy, pandas, Pillow and pydicom but not
torch.

- `images`: decode a file to an array.
- `cache`: decode each image once and cache it on disk.
- `sources`: read class folders, label tables and public data sets into image records.
- `labels`: parse label cells into targets; policies for uncertain labels; label maps.
- `demographics`: parse sex, age and view from cells and headers.
- `splits`: draw stratified splits and folds by patient.
- `open_manifest`: build the final table, a `manifest.Manifest`, from all of these.
- `corrections`: apply corrected labels to a manifest. `decoding`: decode the images of a manifest.
- `folder_words`, `foreign_words`: words in names of folders; words in other languages.
- `arrays`: names for arrays of one data type. `text_column`: a column that stores each distinct text once.
"""
