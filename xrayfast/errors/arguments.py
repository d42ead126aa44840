"""Checks of the arguments of public functions, so that a wrong one is reported where it was given."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial, wraps
from os import PathLike
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from xrayfast.errors import ConfigError, XrayfastError, describe_os_error, did_you_mean, truncate
from xrayfast.errors.environment import warn_of_unread_variables

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST = 100
"""Largest number of characters of a wrong value in a message."""


def check_arguments(types: Callable[[], Mapping[str, Any]] = dict) -> Callable[[F], F]:
    """Make a function raise a ConfigError if an argument does not have the type of its annotation, and an XrayfastError
    if a path is too long for the file system.

    NumPy numbers and arrays are converted to Python's types. Parameters without an annotation, `*args` and `**kwargs`
    are not checked.

    Args:
        types: function that returns types with bounds, keyed by parameter. They apply unless the parameter's own
            annotation has bounds.
    """

    def decorate(function: F) -> F:
        parameters = inspect.signature(function).parameters
        further = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        unchecked = {name for name, p in parameters.items() if p.annotation is p.empty or p.kind in further}

        @cache
        def adapter(name: str) -> TypeAdapter[Any]:
            annotation = parameters[name].annotation
            if isinstance(annotation, str):
                annotation = eval(annotation, function.__globals__, _Drawing())
            config = ConfigDict(arbitrary_types_allowed=True, strict=True, allow_inf_nan=False)
            return TypeAdapter(_by_instance(annotation), config=config)

        @cache
        def bounded(name: str) -> TypeAdapter[Any] | None:
            own = str(parameters[name].annotation).startswith("Annotated")
            return TypeAdapter(types()[name]) if name in types() and not own else None

        def check(*args: Any, **options: Any) -> inspect.BoundArguments:
            """Return the checked arguments, as the function will receive them."""
            try:
                bound = inspect.signature(function).bind(*args, **options)
            except TypeError as error:
                raise ConfigError(f"{function.__name__}: {_explain(error, args, options, parameters)}") from None
            if types() and (unknown := [name for name in options if name not in {*parameters, *types()}]):
                known = [*parameters, *types()]
                raise ConfigError(*(f"unknown option '{name}'.{did_you_mean(name, known)}" for name in unknown))
            for name in bound.arguments.keys() - unchecked:
                value = as_python(bound.arguments[name])
                kinds = filter(None, (adapter(name), None if is_code(value) else bounded(name)))
                bound.arguments[name] = _checked(name, value, kinds, parameters[name].default)
            return bound

        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            warn_of_unread_variables()
            bound = check(*args, **options)
            try:
                return function(*bound.args, **bound.kwargs)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                raise XrayfastError(describe_os_error(error)) from error

        call.check = check  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def _explain(
    error: TypeError, args: Sequence[Any], options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> str:
    """Explain why arguments do not fit the parameters of a function."""
    placed = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) > len(placed):
        named = f"{', '.join(one for one in placed if one not in ('self', 'cls'))} and then" if placed else "only"
        return f"found {show(args[len(placed)])} without a name; expected {named} arguments by name, as in name=value."
    unknown = [name for name in options if name not in parameters]
    return f"{error}.{did_you_mean(unknown[0], parameters) if unknown else ''}"


def is_code(value: Any) -> bool:
    """Whether a value is callable, or a list of callables."""
    return callable(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(callable, value)))


def _by_instance(kind: Any) -> Any:
    """Return a type in which this package's classes are checked with isinstance, instead of by their fields."""
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(map(_by_instance, get_args(kind)))]  # noqa: UP007 - made of a tuple
    if get_origin(kind) is Callable and get_args(kind)[0] is not ...:
        return Annotated[Any, PlainValidator(partial(_require_function, count=len(get_args(kind)[0])))]
    if not isinstance(kind, type) or not kind.__module__.startswith("xrayfast."):
        return kind

    def require_instance(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        raise PydanticCustomError("is_instance_of", "Input should be an instance of {name}", {"name": kind.__name__})

    return Annotated[Any, PlainValidator(require_instance)]


def _require_function(value: Any, count: int) -> Any:
    """Return the value if it can be called with this number of arguments, or if its signature is unknown."""
    try:
        inspect.signature(value).bind(*range(count))
    except ValueError:  # a function written in C
        return value
    except TypeError:
        wrong = "Input should be a function of {count} argument{s}"
        raise PydanticCustomError("function", wrong, {"count": count, "s": "s" * (count > 1)}) from None
    return value


def _checked(name: str, value: Any, kinds: Iterable[TypeAdapter[Any]], default: Any) -> Any:
    if value is default:
        return value
    try:
        for kind in kinds:
            kind.validate_python(value)
            if value is None:  # bounds apply only to a value that is given
                break
    except ValidationError as error:
        raise ConfigError(describe_wrong_value(name, value, error.errors())) from None
    texts = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(text, str) and not text for text in texts):  # an empty path would mean the working folder
        raise ConfigError(f"{name} is {show(value)}; expected some text.")
    if any(isinstance(text, (str, PathLike)) and "\0" in str(text) for text in texts):
        raise ConfigError(f"{name} is {show(value)}; found a NUL character, which no file's name has.")
    return value


class _Drawing(dict[str, Any]):
    """A namespace with matplotlib's Axes, which some modules import only for type checking."""

    def __missing__(self, name: str) -> Any:
        if name != "Axes":
            raise KeyError(name)
        from matplotlib.axes import Axes

        return Axes


_MAKERS = {
    "Axes": "matplotlib's plt.subplots",
    "DataLoaders": "xrayfast.dataloaders",
    "Learner": "xrayfast.learner",
    "Manifest": "xrayfast.open_data",
    "RadiographLearner": "xrayfast.learner",
    "Run": "xrayfast.fit and xrayfast.save",
}
"""Functions that make objects of each class, for messages."""


def expectation(problem: Any) -> str:
    """Return what was expected, from one of pydantic's errors.

    >>> expectation({"type": "int", "msg": "Input should be a valid integer, unable to parse string as an integer"})
    'a whole number'
    >>> expectation({"type": "ge", "msg": "Input should be greater than or equal to 1"})
    'at least 1'
    """
    text = problem["msg"].removeprefix("Input should be ").removeprefix("Input is ").partition(", unable")[0]
    text = text.partition(", got")[0].partition(" after validation")[0].partition(" or instance of ")[0]
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    before, is_instance, name = text.partition("an instance of ")
    if not is_instance or name == "Sequence":
        return "a list" if "Sequence" in text else text
    made_by = f" (from {_MAKERS[name]})" if name in _MAKERS else ""
    return f"{before}{_with_article(name)}{made_by}"


def join_alternatives(texts: Iterable[str]) -> str:
    """Join texts as in "a, b or c".

    >>> join_alternatives(["a number", "a list"])
    'a number or a list'
    """
    *first, last = texts
    return f"{', '.join(first)} or {last}" if first else last


_WORDS = {
    "valid integer": "whole number",
    "a valid tuple": "a list of them",
    "valid ": "",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "greater than": "above",
    "less than": "below",
    "Value should have": "a value of",
    "Tuple should have ": "",
    "String should have at least 1 character": "some text",
    "callable": "code (a function, a class or a module)",
}
"""Replacements for pydantic's words in messages."""


def describe_wrong_value(name: str, value: Any, problems: Sequence[Any], also: str = "") -> str:
    """Return a message on a wrong value from pydantic's errors, with a hint on the word that a misspelled one may mean.

    `also` is what else is accepted. An error of the type "rules" has the whole message.
    """
    if problems[-1]["type"] == "rules":
        return str(problems[-1]["msg"])
    expected = join_alternatives(dict.fromkeys(map(expectation, problems)))
    allowed = [problem["ctx"]["expected"] for problem in problems if problem["type"] == "literal_error"]
    hint = did_you_mean(str(value), allowed[0].split("'")[1::2]) if allowed else ""  # of "'auto', 'ce' or 'focal'"
    return f"{name} is {show(value)}; expected {expected}{also}.{hint}"


def as_python(value: Any) -> Any:
    """Convert NumPy numbers and arrays, alone or in a list, to Python's types, and fastai's L to a list.

    Other values are returned unchanged.
    """
    if (type(value).__module__, type(value).__name__) == ("fastcore.foundation", "L"):
        value = list(value)
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(as_python, value))
    return value


def show(value: Any) -> str:
    """Return a wrong value as text, truncated if long; its class if its repr is an address or has several lines."""
    try:
        text = repr(value)
    except ValueError:  # Python does not convert longer ones to text
        return "a whole number of more than 4,000 digits"
    if " object at 0x" in text or "\n" in text:
        return f"{'a list of ' if isinstance(value, (list, tuple)) else ''}{_with_article(_class_name(value))}"
    return truncate(text, _LONGEST)


def _class_name(value: Any) -> str:
    return _class_name(value[0]) if isinstance(value, (list, tuple)) else type(value).__name__


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
