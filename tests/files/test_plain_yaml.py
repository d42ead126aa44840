"""Restrictions on YAML from strangers."""

import time

import pytest
import yaml

from xrayfast.errors import ConfigFileError
from xrayfast.files.plain_yaml import read_yaml

HOSTILE_YAML = {
    "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "(line 1: an anchor or alias)"),
    "alias of nothing": ("a: *b\n", "(line 1: an anchor or alias)"),
    "tag": ("a: !!python/object/apply:os.system ['true']\n", "(line 1: a tag)"),
    "depth": ("[" * 20_000, "nesting"),
    "deep mappings": ("{a: " * 100 + "}" * 100, "nesting"),
    "keys": ("".join(f"k{i}: 1\n" for i in range(80_000)), "(line 10000: more than 20,000 values)"),
    "size": ("".join(f"k{i}: 1\n" for i in range(300_000)), "expected settings of at most 1,048,576 bytes. Check"),
    "key twice": ("a:\n  b: 1\n  c: [1, 2]\n  'b': 2\n", "(line 4: the key 'b' twice)"),
    "key that is a list": ("[a, b]: 1\n", "(line 1: a key that is not plain text)"),
    "long value": ("a: 0x" + "f" * 100_000, "(line 1: a value of 100,002 characters)"),
    "sixties": ("a: 1" + ":1" * 100_000, "(line 1: a value of 200,001 characters)"),
    "base 8": ("a: 010\n", "(line 1: 010, which YAML reads in base 8 or 60; write 10 for ten"),
    "base 60": ("a: [1:30]\n", "(line 1: 1:30, which YAML reads in base 8 or 60"),
    "base 60 with a fraction": ("a: 1:30.5\n", "(line 1: 1:30.5, which YAML reads in base 8 or 60"),
    "no date": ("a: 2001-99-99\n", "is not plain YAML (month must be in 1..12"),
    "two documents": ("a: 1\n---\nb: 1\n", "(line 2: but found another document)"),
    "not closed": ("a: [", "is not plain YAML (line"),
    "control character": ("a: \x00\n", "is not plain YAML"),
}


@pytest.mark.parametrize("text, said", HOSTILE_YAML.values(), ids=HOSTILE_YAML)
@pytest.mark.parametrize("parser", ["C", "Python"])
def test_yaml_with_more_than_plain_values_is_refused_at_once(text, said, parser, tmp_path, monkeypatch):
    if parser == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    (tmp_path / "c.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigFileError) as caught:
        read_yaml(tmp_path / "c.yaml", "settings", ConfigFileError)
    assert time.process_time() - began < 3
    assert str(caught.value).startswith(f"{tmp_path}/c.yaml: ") and said in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_plain_yaml_is_read_as_usual(tmp_path):
    text = "a: {b: [1, 0, 0.5, 0x1F, '010', 2.5, on, 'x: y'], c: null}\nb: |\n  two\n  lines\n? d\n: -1.0e-3\n"
    (tmp_path / "c.yaml").write_text(text)
    found = read_yaml(tmp_path / "c.yaml", "settings", ConfigFileError)
    assert found == yaml.safe_load(text)
    found["a"]["b"].clear()
    assert read_yaml(tmp_path / "c.yaml", "settings", ConfigFileError) == yaml.safe_load(text), "read anew"
