"""Names fit into the available space."""

import pytest

from xrayfast.reporting.figures import layout


@pytest.mark.parametrize("names", ["x" * 90, f"{'word ' * 20}0.50, other 0.41", "a b, c", f"{'x' * 90} 0.50, b 0.40"])
def test_names_never_take_more_lines_than_given(names):
    lines = layout.wrap_names("Predicted: ", names, " (0.93)", 36, 2)
    assert len(lines) <= 2 and max(map(len, lines)) <= 36
    assert lines[0].startswith("Predicted:") and lines[-1].endswith("(0.93)")
    assert ("1 more" in lines[-1]) == (names.count(", ") == 1 and len(names) > 20)
