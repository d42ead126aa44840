"""From files on disk to a table of images with labels and parts: numpy, pandas, Pillow and pydicom, no torch.

Four modules are the doors to start from; the others serve one of them.

| door | behind it |
|---|---|
| `radiograph`: a file to an image | `image`, `pillow`; `dicom` with `dicom_file`, `dicom_elements`, `dicom_header`, `dicom_pixels`, `dicom_apart`, `dicom_display` |
| `store`: images decoded once | `segments`, `cache`, `decoding`, `workers`, `locks` |
| `manifest`: the table of images | how files lie: `layouts`, `folders`, `tables`, `listing`, `forms`, `paths`, `row_files`, `side_tables`, `images`; what labels mean: `labels`, `targets`, `policies`, `label_map`, `implications`, `labelling`; who and where: `patients`, `splits`, `splits`, `split_files` |
| `phantom`: synthetic radiographs | |
"""  # noqa: E501 (a table)
