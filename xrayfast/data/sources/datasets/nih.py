"""NIH ChestX-ray14 (Wang et al. 2017, CVPR): `Data_Entry_2017.csv` beside `images_001` to `images_012`."""

import re

from xrayfast.data.sources.datasets.spec import DatasetSpec

SPEC = DatasetSpec(
    "NIH ChestX-ray14",
    (frozenset({"Image Index", "Finding Labels"}),),
    main_table=r"Data_Entry_2017.*\.csv",
    image_path="{Image Index}",
    label_column="Finding Labels",
    patient_in_path=re.compile(r"(?:^|/)000(\d{5})_\d{3}(?!\d)[^/]*$"),
    path_example="00000123_004.png",
    test_list="test_list.txt",
)
