"""The metadata of an exported file are read back; damage is named."""

import pytest

from xrayfast.exported.metadata import ModelMetadata, Parity
from xrayfast.metrics.operating_points.calibration import Scaling
from xrayfast.metrics.operating_points.decision import Decision
from xrayfast.metrics.operating_points.thresholds import OperatingPoint

POINTS = tuple(OperatingPoint(threshold, "", 0.9, 0.8, 10, 20) for threshold in (0.25, 0.5))
DECISION = Decision("multi", ("Ödem", 'a "b"'), (Scaling(1.5, -0.25), Scaling(1.0, 0.0, "few")), POINTS, "youden")
METADATA = ModelMetadata(
    xrayfast="1.0",
    labels=DECISION.labels,
    task="multi",
    thresholds={"Ödem": 0.25, 'a "b"': 0.5},
    decision=DECISION.to_json(),
    size=64,
    window="2048/4096",
    parity=Parity(images=3, dicom=1, largest=1e-6, decisions=0),
)


def test_metadata_are_read_back_with_their_decision():
    properties = METADATA.to_properties()
    assert all(isinstance(value, str) for value in properties.values())
    found = ModelMetadata.from_properties(properties | {"other": "tool's"})
    assert found == METADATA
    assert found.read_decision() == DECISION
    assert "not for diagnosis" in found.intended_use


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": "[]"}, "labels"),
        ({"labels": "{"}, "is not JSON"),
        ({"labels": "[" * 100_000}, "is not JSON"),
        ({"size": "1e9"}, "size"),
        ({"size": "10000"}, "size"),
        ({"task": "none"}, "task"),
        ({"format": "xrayfast classifier 9"}, "format"),
        ({"parity": '{"images": 0}'}, "parity"),
        ({"decision": '{"calibration": {"method": "magic"}}'}, "magic"),
        ({"decision": '{"calibration": 3}'}, "objects or null"),
        ({"labels": '["a", "b", "c"]'}, "labels"),
        ({"labels": '["a \\"b\\"", "Ödem"]'}, "thresholds in its metadata are for other labels"),
    ],
)
def test_damage_is_named(changed, said):
    with pytest.raises(ValueError, match=said):
        ModelMetadata.from_properties(METADATA.to_properties() | changed).read_decision()


def test_files_of_other_tools_are_recognized():
    with pytest.raises(ValueError, match=r"no metadata of xrayfast, but stride, names"):
        ModelMetadata.from_properties({"stride": "32", "names": "{}"})
