"""Kermany et al. 2018 (Cell), "chest X-ray pneumonia": class folders without a table; patients in file names."""

import re

from xrayfast.data.sources.datasets.spec import DatasetSpec

SPEC = DatasetSpec(
    "Kermany",
    patient_in_path=re.compile(
        r"(?:^|/)(person\d+|(?:NORMAL2-)?IM-\d{4}(?=-\d{4}))[_-][^/]*\.(?:jpe?g|png)$", re.IGNORECASE
    ),
    path_example="person12_bacteria_3.jpeg",
)
