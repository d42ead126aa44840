"""DICOM: parsing, metadata, pixel decoding and windowing."""
