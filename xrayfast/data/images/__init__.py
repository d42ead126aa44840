"""Reading one image file as one 8-bit gray array.

- `reader`: `read`, the only entry point; recognizes files by their content.
- `pillow`: PNG, JPEG, TIFF, BMP and WebP.
- `dicom`: DICOM.
- `radiograph`: `Radiograph`, which `read` returns; 8-bit scaling.
- `contents`, `damage`, `outline`, `thumbnail`: notes on what an image shows.
- `notes`: the table of all notes, with what `check` makes of them; recognizes notes in files.
- `jpeg`: finds JPEGs with missing data, or with data beyond the last row.
- `limits`: limits that are checked before decoding: file size, pixels, aspect ratio, JPEG scans.
- `bits`: finds stored values with other bits or another sign than the file says.
- `names`: what the names of files and folders say about an image.
"""
