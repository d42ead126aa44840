"""VinDr-CXR (Nguyen et al. 2022, Sci Data): one row per box and reader, or per image and reader with 0/1 labels."""

from dataclasses import replace

from xrayfast.data.sources.datasets.spec import DatasetSpec

BOXES = DatasetSpec(
    "VinDr-CXR",
    (frozenset({"image_id", "class_name", "x_min", "y_min"}),),
    main_table=r"train\.csv|annotations_train\.csv",
    image_path="{image_id}",
    has_repeated_images=True,
    label_column="class_name",
    multi_label=True,
    note="Rows are boxes of several readers: an image has each label that any of them gave.",
)

LABELS = replace(
    BOXES,
    name="VinDr-CXR (labels)",
    columns=(frozenset({"image_id", "rad_id", "Aortic enlargement"}),),
    main_table=r"image_labels_train\.csv",
    label_column="",
)
