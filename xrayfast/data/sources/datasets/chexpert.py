"""CheXpert (Irvin et al. 2019, AAAI): `train.csv` with a column per label; images in `patient00001/study1/`."""

import re

from xrayfast.data.sources.datasets.spec import DatasetSpec

CHEXPERT_LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip

SPEC = DatasetSpec(
    "CheXpert",
    (frozenset({"Path", "Frontal/Lateral"}), frozenset({"Path", *CHEXPERT_LABELS})),
    main_table=r"train\.csv",
    image_folder=r"patient\d+|study\d+",
    image_path="{Path}",
    min_path_parts=3,  # patient, study, view: file names such as view1_frontal.jpg recur in every study
    flag_columns={label: label for label in CHEXPERT_LABELS},
    multi_label=True,
    blank="zeros",
    patient_in_path=re.compile(r"(?:^|/)(patient\d{5,})/(study\d+)/"),
    path_example="patient00123/study1/",
)
