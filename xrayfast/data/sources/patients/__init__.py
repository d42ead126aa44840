"""Find which images are of one patient or study.

- `find`: patients and studies that no column holds: from file names, else from DICOM headers.
- `image_names`: patients and studies in the names of images; `copies`: copies and views of one image, by name.
- `headers`: patients and studies in DICOM headers.
- `groups`: from identifiers to groups of images, pseudonyms and hashes.
"""
