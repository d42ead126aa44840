"""From files on disk to a table of images with labels and parts: numpy, pandas, Pillow and pydicom, no torch.

Four modules are the doors to start from; the others serve one of them.

| door | behind it |
|---|---|
| `radiograph`: a file to a picture | `picture`, `pillow`; `dicom` with `dicom_file`, `dicom_elements`, `dicom_header`, `dicom_pixels`, `dicom_apart`, `dicom_display` |
| `store`: pictures decoded once | `segments`, `cache`, `decoding`, `workers`, `claims` |
| `manifest`: the table of images | how files lie: `layouts`, `folders`, `tables`, `listing`, `forms`, `paths`, `row_files`, `side_tables`, `images`; what labels mean: `labels`, `targets`, `policies`, `label_map`, `implications`, `labelling`; who and where: `patients`, `parts`, `splits`, `split_files` |
| `phantom`: synthetic radiographs | |
"""  # noqa: E501 (a table)
