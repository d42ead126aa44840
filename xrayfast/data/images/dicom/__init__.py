"""One DICOM file to one 8-bit gray image, in the order of PS3.3 C.11.

1. `parse`: is it DICOM, its transfer syntax, its header, its Pixel Data. `elements` converts header values.
2. `layout`: what the header says of the pixels, checked.
3. `decoders`: Pixel Data to stored values: `DECODERS`, one decoder per transfer syntax. Codecs that can crash or hang
   run in a subprocess: `sandbox`.
4. `render`: `decode_dicom`, which does all of this; modality LUT or rescale (tables in `lut`), padding, colour.
5. `windowing`: where the window or VOI LUT is chosen and applied.

`metadata` reads patient and study from the header alone.
"""
