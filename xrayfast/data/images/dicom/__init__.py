"""Reading one DICOM file as one 8-bit gray image, in the order of PS3.3 C.11.

1. `parse`: recognizes DICOM; finds the transfer syntax, the header and Pixel Data. `elements` converts header values.
2. `layout`: reads and checks what the header says about the pixels.
3. `decoders`: decodes Pixel Data into stored values; `DECODERS` has one decoder per transfer syntax. Codecs that can
   crash or hang run in a subprocess: `sandbox`.
4. `render`: `decode_dicom`, which does all of this; modality LUT or rescale (tables in `lut`), padding, color.
5. `windowing`: chooses and applies the window or VOI LUT.

`metadata` reads patient and study from the header alone. All raise ReadError for a file that can't be read.
"""
