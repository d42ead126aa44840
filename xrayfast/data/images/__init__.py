"""One image file to one 8-bit gray array.

- `reader`: `read`, the one entry point; recognises files by their content.
- `pillow`: PNG, JPEG, TIFF, BMP and WebP.
- `dicom`: DICOM.
- `radiograph`: what `read` returns; 8-bit scaling.
- `notes`: what is noted of an image's contents, and which notes need attention.
- `jpeg`: which data of a JPEG are missing, or go on below its last row.
- `limits`: what is refused before it is decoded: file size, pixels, aspect ratio, JPEG scans.
"""
