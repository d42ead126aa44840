"""PadChest (Bustos et al. 2020, Med Image Anal): one table with lists of labels; ages are computed from two dates."""

from __future__ import annotations

from collections.abc import Sequence

from xrayfast.data.sources.datasets.spec import DatasetSpec


def ages_at_study(births: Sequence[str], dates: Sequence[str]) -> list[str]:
    """Return the years between a year of birth ("1930" or "1930.0") and a date (YYYYMMDD); "" where unknown."""
    return [
        str(int(date[:4]) - int(birth[:4])) if birth[:4].isdecimal() and date[:4].isdecimal() else ""
        for birth, date in zip(births, dates, strict=True)
    ]


SPEC = DatasetSpec(
    "PadChest",
    (frozenset({"ImageID", "ImageDir", "Labels"}),),
    main_table=r"PADCHEST_.*\.csv(\.gz)?",
    image_path="{ImageDir}/{ImageID}",
    label_column="Labels",
    no_finding="normal",
    multi_label=True,
    age_columns=("PatientBirth", "StudyDate_DICOM"),
    ages_of=ages_at_study,
)
