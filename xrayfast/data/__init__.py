"""From files on disk to a table of images with labels and splits: numpy, pandas, Pillow and pydicom, no torch.

- `images`: one file to one array.
- `cache`: each image decoded once and cached on disk.
- `sources`: class folders, label tables and public data sets to image records.
- `labels`: label cells to targets; policies for uncertain labels; label maps.
- `demographics`: sex, age and view from cells and headers.
- `splits`: stratified splits and folds by patient.
- `manifest`: the table that all of these make.
"""
