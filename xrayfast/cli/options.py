"""Options of the commands: those generated from the config's fields, and those that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from xrayfast.config import FIELD_SECTIONS, MAX_SEED, OUTPUT, SECTIONS
from xrayfast.workflows.recipes import RECIPES

PANELS = {"data": "Data", "model": "Network", "train": "Training", "results": "Results"}
"""Heading of the options of each section in the help."""

FIELDS = {name: SECTIONS[section].model_fields[name] for name, section in FIELD_SECTIONS.items()}


def takes(
    *names: str, without: Collection[str] = (), of_run: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each of these fields of the config.

    Typer reads options from a signature, so a signature with all of them is made. The command's first parameter is a
    dict of the options that were given, keyed by field. Options default to None, for "not given", so that a --config
    file can set them.

    Args:
        *names: fields, or sections for all of their fields. In the help, the fields of a section are under its heading;
            fields that are named have no heading unless they define one.
        without: fields to leave out.
        of_run: fields that default to the settings of the run that the command works on.
    """
    fields = [field for name in names for field in _fields(name) if field not in without and not _in_python(field)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        def run(**values: Any) -> None:
            settings = parse({field: values.pop(field) for field in fields})
            command(settings, **values)

        kind = inspect.Parameter.KEYWORD_ONLY
        options = [
            inspect.Parameter(field, kind, default=None, annotation=_annotation(field, names, field in of_run))
            for field in fields
        ]
        options += [parameter.replace(kind=kind) for parameter in own]
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in options}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _fields(name: str) -> Iterator[str]:
    yield from SECTIONS[name].model_fields if name in SECTIONS else [name]


def _in_python(name: str) -> bool:
    """Whether a field can be set only in Python."""
    shows: Any = FIELDS[name].json_schema_extra
    return "python_only" in shows


def _annotation(name: str, takes: Collection[str], of_run: bool) -> Any:
    """Return the annotation from which Typer makes the option of a field: its type, flags and help."""
    field, flag = FIELDS[name], name.replace("_", "-")
    shows: Any = field.json_schema_extra
    types = [kind for kind in get_args(field.annotation) or [field.annotation] if kind is not NoneType]
    types = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in types]  # without bounds
    kind = types[0] if len(types) == 1 and types[0] in (bool, int, float, Path) else str
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    metavar, default = shows.get("metavar") or "|".join(choices) or None, str(field.default)
    help = field.description or ""
    if kind is bool:
        default = "on" if field.default else "off"
        flag += f"/--no-{flag}"
    if shows.get("repeated"):
        kind = list[str]
        help += " May be repeated."
    show = "the run's" if of_run else shows.get("shown") or (default if field.default not in (None, ()) else False)
    if name == "source":
        return Annotated[kind | None, typer.Argument(metavar=metavar, show_default=show, help=help)]
    option = typer.Option(
        f"--{flag}",
        *([shows["short"]] if "short" in shows else []),
        metavar=metavar,
        show_default=show,
        rich_help_panel=shows.get("panel", None if name in takes else PANELS[FIELD_SECTIONS[name]]),
        help=help,
        # Config checks the fields of a section; fields that are named are not part of one.
        callback=_checking(choices) if choices and name in takes else None,
    )
    return Annotated[kind | None, option]


def parse(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, with comma-separated values split and numbers converted.

    >>> parse({"epochs": 3, "lr": None, "head_width": "500,100", "alpha": "0.25", "label_col": "1,2"})
    {'epochs': 3, 'head_width': (500, 100), 'alpha': 0.25, 'label_col': ('1', '2')}
    """
    given = {name: value for name, value in values.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, str):
            continue
        kinds = set(_kinds(FIELDS[name].annotation))
        words = [word.strip() for word in value.split(",")] if tuple in kinds else [value]
        found = tuple(map(as_number, words) if kinds & {int, float} else words)
        given[name] = found if len(found) > 1 else found[0]
    return given


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield all types that a type contains, at any depth."""
    yield get_origin(annotation) or annotation
    for inner in get_args(annotation):
        if not isinstance(inner, (str, FieldInfo)) and inner is not ...:
            yield from _kinds(inner)


def as_number(word: str) -> int | float | str:
    """Convert a word to a number; return it unchanged if it is none."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(word)
    return word


def choice_option(choices: Collection[str], *flags: str, **shown: Any) -> Any:
    """Return a `typer.Option` that takes one of the choices."""
    return typer.Option(*flags, metavar="|".join(choices), callback=_checking(choices), **shown)


def _checking(choices: Collection[str]) -> Callable[..., Any]:
    """Return a callback of an option that raises a usage error if its value is not one of the choices."""

    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in choices:
            flag = max(param.opts, key=len)
            raise typer.BadParameter(f"'{value}' is not one of {', '.join(choices)}.", param_hint=flag)
        return value

    return check


def split_columns(value: str | None) -> list[str]:
    """Split an option such as "sex,hospital" into columns."""
    return [column.strip() for column in value.split(",")] if value else []


def out_option(*flags: str, **shown: Any) -> Any:
    """Return a `typer.Option` under the heading Output."""
    return typer.Option(*flags, rich_help_panel=OUTPUT, **shown)


def new_name(of: str) -> Any:
    """Return the option `--name` of a command that makes a folder under `--runs`."""
    return out_option("--name", metavar="NAME", help=f"Name of {of}. By default the network and a number.")


ConfigFile = Annotated[
    Path | None,
    out_option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file of settings, such as a run's config.yaml. Options override it.",
    ),
]
RecipeName = Annotated[
    str | None,
    choice_option(
        RECIPES,
        "--recipe",
        rich_help_panel=PANELS["train"],
        show_default="default",
        help="Preset of several options. fast: the head only, on small images, for a first look; default: the defaults "
        "shown here; best: all layers of three networks, which are averaged. Options that are given override it.",
    ),
]
Runs = Annotated[
    Path | None, out_option("--runs", show_default="runs", metavar="DIR", help="Folder that contains the runs.")
]
Json = Annotated[
    bool, out_option("--json", help="Print one JSON object to standard output, and all other output to standard error.")
]
AbstainBelow = Annotated[
    float | None,
    typer.Option(
        "--abstain-below",
        metavar="P",
        min=0,
        max=1,
        help="Give no answer if its calibrated probability is below this, such as 0.8. By default there is always an "
        "answer.",
    ),
]
RunFolder = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN", show_default="the newest under runs/", help="Folder of a run, or hf:ORG/NAME[@REVISION]."
    ),
]
DrawSeed = Annotated[int, typer.Option(metavar="N", min=0, max=MAX_SEED, help="Seed of the bootstrap resamples.")]
