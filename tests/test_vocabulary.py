"""One word for one thing: no name, option or help text uses a synonym of the project's words."""

import ast
import re
from pathlib import Path

import pytest

import xrayfast

PACKAGE = Path(xrayfast.__file__).parent
GUIDE = PACKAGE.parent / "examples" / "guide" / "commands.md"

INSTEAD = {
    **dict.fromkeys(("part", "parts", "set", "sets"), "split, or dataset"),
    **dict.fromkeys(("picture", "pictures", "film", "films"), "image"),
    **dict.fromkeys(("finding", "findings", "category", "categories"), "label, or class"),
    **dict.fromkeys(("measure", "measures"), "metric"),
    **dict.fromkeys(("unknown", "nobody"), "masked"),
    **dict.fromkeys(("store", "stores"), "cache"),
    **dict.fromkeys(("thaw", "thawed"), "unfreeze"),
    **dict.fromkeys(("cut", "cuts"), "block"),
    "kept": "frozen features, saved",
    "elsewhere": "external",
    **dict.fromkeys(("body", "bodies"), "backbone"),
}
"""A word that no name has, and the project's word for it."""

ALLOWED = {
    r".*\bno_finding|.*_no_finding": "the label 'No Finding' of public datasets",
    r"audit\.|cli\.output\.Output\.finding": "what an audit finds, in the usual sense",
    r".*\.set_\w+": "a verb",
    r"data\.labels\.(names\.LabelSet|targets\.encode_labels\(label_sets\))": "sets in the mathematical sense",
    r"data\.sources\..*min_(path_)?parts": "parts of a path, as pathlib has them",
    r"cli\.commands\.evaluate\.evaluate\(part\)": "the deprecated name of --split",
}
"""Patterns of names that have such a word in another sense, and which sense."""

KNOWN = (
    r"learning\.(training\.frozen_features|model\.backbones)\.|workflows\.|metrics\.measures|report\.html\.|"
    r"run_files\."
)
"""Names still to be renamed."""

KNOWN_TEXTS = {
    *("Manifest", "Manifest.truth", "RadiographInterpretation", "Run.task", "dataloaders", "evaluate", "fit"),
    *("interpret", "phantom", "predict"),
}
"""Docstrings still to be reworded."""

PHRASES = {
    r"\b(?:pictures?|films?|thaw\w*|elsewhere|categor(?:y|ies))\b": "image, unfreeze, external, label",
    r"(?<!no[ -])(?<!\.)\bfindings?\b": "label",
    r"\bnobody|decision rule|kept values\b": "masked, threshold, frozen features",
    r"\b(?:train|training|valid|validation|test|own|which|each|all|this|the) (?:part|set)s?\b": "split",
    r"\b(?:measures|a measure|the measure)\b": "metric",
    r"\bone label an image|several labels an image\b": "single-label, multi-label",
    r"\b(?:images?|labels?|rows?|columns?|views?|class(?:es)?|value|number|probabilit(?:y|ies)|ms|seconds) an? "
    r"(?:image|label|class|patient|second|epoch|batch|file|run)\b": "per image",
}
"""Patterns that no help text or docstring of the public API has, and the project's words for them."""


def names():
    """Public functions, classes, methods, parameters and annotated attributes, each as `module.name`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield from ((f"{module}", piece) for piece in [path.stem])
        yield from defined(ast.parse(path.read_text()).body, module)


def defined(body, where):
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (
            not node.name.startswith("_") or node.name == "__init__"
        ):
            inside = f"{where}.{node.name}"
            yield inside, node.name
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body, inside)
            else:
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                yield from ((f"{inside}({argument.arg})", argument.arg) for argument in arguments)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            yield f"{where}.{node.target.id}", node.target.id


def pieces(name):
    """The words of a name in snake_case or CamelCase.

    >>> pieces("MaskedCells"), pieces("test_part")
    (['masked', 'cells'], ['test', 'part'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)]


def test_no_name_has_a_word_for_which_the_project_has_another():
    allowed = re.compile("|".join([*ALLOWED, KNOWN]))
    found = {place: INSTEAD[word] for place, name in names() for word in pieces(name) if word in INSTEAD}
    assert not {place: word for place, word in found.items() if not allowed.match(place)}
    assert all(any(re.match(pattern, place) for place in found) for pattern in ALLOWED)


def texts():
    """Help texts of the commands and docstrings of the public API, by where they stand."""
    yield "commands.md", GUIDE.read_text(encoding="utf-8")
    for name in xrayfast.__all__:
        public = getattr(xrayfast, name)
        yield name, public.__doc__ if callable(public) else ""
        if isinstance(public, type):
            for method, value in vars(public).items():
                if not method.startswith("_"):
                    yield f"{name}.{method}", getattr(value, "__doc__", "") or ""


@pytest.mark.parametrize("pattern", PHRASES)
def test_no_help_text_or_public_docstring_has_another_word(pattern):
    found = {where: match for where, text in texts() if (match := re.findall(pattern, text, re.IGNORECASE))}
    for where in ("phantom", "synth", *KNOWN_TEXTS):  # "films" are what `synth` draws
        found.pop(where, None)
    assert not found, f"{found}; say: {PHRASES[pattern]}"
