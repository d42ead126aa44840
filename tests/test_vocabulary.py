"""Names, help texts, messages and docstrings use the words of the project, not their synonyms."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import xrayfast

PACKAGE = Path(xrayfast.__file__).parent
PAGES = [PACKAGE.parent / "README.md", *sorted((PACKAGE.parent / "examples" / "guide").glob("*.md"))]

INSTEAD = {
    **dict.fromkeys(("part", "parts", "set", "sets"), "split, or data set"),
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
    r"(audit|cli\.output)[\w.]*[.(](Finding|(\w+_)?findings?)\)?$": "what an audit finds, in the usual sense",
    r".*\.set_\w+": "a verb",
    r"data\.labels\.(names\.LabelSet|targets\.encode_labels\(label_sets\))": "sets in the mathematical sense",
    r"data\.sources\..*min_(path_)?parts": "parts of a path, as pathlib has them",
    r"(runs\.metrics_types\.MatchedLabels|workflows\.[\w.]+\.LabelMatch)\.unknown$": "labels that a network lacks",
}
"""Patterns of names that have such a word in another sense, and which sense."""

PHRASES = {
    r"\b(?:pictures?|films?|thaw\w*|categor(?:y|ies)|from elsewhere)\b": "image, unfreeze, label, external",
    r"(?<!no[ -])(?<!\.)\bfindings?\b": "label",
    r"\bnobody (?:knows|dared)|decision rule|kept values\b": "masked, threshold, frozen features",
    r"\b(?:train|training|valid|validation|test|own|which|each|all|the) parts?\b(?! of)": "split",
    r"\b(?:train|training|valid|validation|test|own) sets?\b": "split",
    r"\b(?:a|the|which|each|every|other) measures?\b": "metric",
    r"\b(?:several|all|many|other|each|every|more) process(?:es)?\b(?! that)|number of processes": "rank, world size",
    r"\b(?:one|several) (?:labels?|class(?:es)?) an image\b": "single-label, multi-label",
    r"\b(?:images?|labels?|rows?|columns?|views?|class(?:es)?|value|number|probabilit(?:y|ies)|ms|seconds) an? "
    r"(?:image|label|class|patient|second|epoch|batch|file|run)\b": "per image",
    r"\d\s+%(?!\})": "95%",
    r"\b[1-9]\d{3,} (?:images?|patients?|studies|rows?|resamples|radiographs)\b": "1,000 images",
}
"""Patterns that no docstring, help text, message or template has, and the project's words for them."""

OTHER_SENSES = {
    r"synthetic": r"films?|findings?",  # what `synth` draws
    r"audit/|cli/output|reporting/html/\w*/?check|workflows/steps/provenance": r"findings?",  # of an audit
    r"reporting/\w+/templates/(model_card|results)": r"findings?",  # of radiologists
    r"reporting/html/templates/check": "from elsewhere",  # other hospitals
    # words in users' data
    r"data/(sources/(column|datasets)|folder_words|images/names|labels/(cells|words))": r"findings?|films?|pictures?",
    r"data/cache/|learning/dataloaders/loaders": r"\w+ process(?:es)?",  # of the operating system
    r"data/cache/(folders|shards)": "pictures",  # a folder on a user's disk
    r"reporting/markdown/claim": r"test set",  # the words of the checklist
}
"""Files, and the words that they have in another sense."""


@cache
def read():
    """Return the places (`module.name`) and names of public functions, classes, methods, parameters and attributes; and
    the strings of the package, its templates, and the prose of README and guide, keyed by file.
    """
    names, texts = [], {}
    for path in sorted(PACKAGE.rglob("*.py")):
        tree, module = ast.parse(path.read_text()), ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        names += [(module, path.stem), *defined(tree.body, module)]
        strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        texts[path.relative_to(PACKAGE).as_posix()] = "\n".join(text for text in strings if isinstance(text, str))
    for path in sorted((PACKAGE / "reporting").glob("*/templates/*")):
        texts[path.relative_to(PACKAGE).as_posix()] = path.read_text(encoding="utf-8")
    for page in PAGES:
        texts[page.name] = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return names, texts


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
    """Return the words of a name in snake_case or CamelCase.

    >>> pieces("MaskedCells"), pieces("test_part")
    (['masked', 'cells'], ['test', 'part'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)]


def test_names_contain_no_synonyms():
    allowed = re.compile("|".join(ALLOWED))
    found = {place: INSTEAD[word] for place, name in read()[0] for word in pieces(name) if word in INSTEAD}
    assert not {place: word for place, word in found.items() if not allowed.match(place)}
    assert all(any(re.match(pattern, place) for place in found) for pattern in ALLOWED)


@pytest.mark.parametrize("pattern", PHRASES)
def test_texts_contain_no_synonyms(pattern):
    found = {}
    for file, text in read()[1].items():
        allowed = [words for files, words in OTHER_SENSES.items() if re.match(files, file)]
        for match in re.finditer(pattern, text, re.IGNORECASE):
            if not any(re.fullmatch(words, match[0], re.IGNORECASE) for words in allowed):
                found.setdefault(file, []).append(match[0])
    assert not found, f"{found}; say: {PHRASES[pattern]}"
