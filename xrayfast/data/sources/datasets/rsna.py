"""RSNA Pneumonia Detection Challenge (2018): a table with one row per box, and a table of classes."""

from dataclasses import replace

from xrayfast.data.sources.datasets.spec import DatasetSpec

BOXES = DatasetSpec(
    "RSNA Pneumonia",
    (frozenset({"patientId", "x", "y", "width", "height", "Target"}),),
    main_table=r"stage_2_train_labels\.csv",
    image_folder=r"stage_\d+_(train|test)_images",
    image_path="{patientId}",
    has_repeated_images=True,
    flag_columns={"Target": "Lung Opacity"},
    multi_label=True,
    note="patientId identifies an image, so it is not known which images are of the same patient.",
)

CLASSES = replace(
    BOXES,
    name="RSNA Pneumonia (classes)",
    columns=(frozenset({"patientId", "class"}),),
    main_table="",
    label_column="class",
    flag_columns={},
    multi_label=False,
)
