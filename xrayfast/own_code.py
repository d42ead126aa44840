"""The user's own code, such as a network or a loss, in settings and in a run's files.

Only its name is saved, as the setting "own:NAME"; nothing is pickled. The code has to be given again to load, resume or
replay such a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from xrayfast.errors import ConfigError
from xrayfast.errors.arguments import is_code

OWN = "own:"

OWN_SETTINGS = {
    "arch": "a torch.nn.Module or what makes one",
    "splitter": "a function of the network",
    "loss": "a function of logits and targets",
    "augment": "False, or a list of functions of a batch",
}
"""Settings that accept code in Python, and what code each accepts."""


def is_own(value: object) -> bool:
    """Whether a setting is the user's own code."""
    return isinstance(value, str) and value.startswith(OWN)


def name_of(code: Any) -> str:
    """Return the name of a function or class, or of the class of an object; for a list, the names of its items.

    >>> name_of(len), name_of(partial(is_own, 3)), name_of([{1}, dict])
    ('len', 'is_own', 'set, dict')
    """
    if isinstance(code, (list, tuple)):
        return ", ".join(map(name_of, code))
    if isinstance(code, partial):
        return name_of(code.func)
    # fastai's losses have the `__qualname__` of the torch loss that they wrap.
    own = isinstance(code, type) or type(code).__module__ == "builtins"
    return str(code.__qualname__ if own and hasattr(code, "__qualname__") else type(code).__qualname__).split(
        "<locals>."
    )[-1]


def separate_code(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings with code replaced by "own:NAME", and the code keyed by setting."""
    code = {name: value for name, value in options.items() if name in OWN_SETTINGS and is_code(value)}
    return {**options, **{name: OWN + name_of(value) for name, value in code.items()}}, code


def show_setting(value: str) -> str:
    """Return a setting as text for display.

    >>> show_setting("own:MyNet"), show_setting("resnet18")
    ('MyNet (own code)', 'resnet18')
    """
    return f"{value.removeprefix(OWN)} (own code)" if is_own(value) else value


def names_of_code(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the code among some settings, keyed by setting.

    >>> names_of_code({"arch": "own:MyNet", "loss": "focal"})
    {'arch': 'MyNet'}
    """
    return {name: value.removeprefix(OWN) for name, value in settings.items() if is_own(value)}


def describe_code(names: Mapping[str, str]) -> str:
    """Return a text such as "arch MyNet, loss my_loss"."""
    return ", ".join(f"{name} {code}" for name, code in names.items())


def require_own_arch(arch: str, where: object) -> None:
    """Raise a ConfigError if code was given for the `arch` of a run, and it is none of the user's own."""
    if not is_own(arch):
        raise ConfigError(f"{where}: arch is {arch}, not code of your own. Leave out arch.")


def require_code(names: Mapping[str, str], given: Mapping[str, Any], where: str = "config.yaml") -> None:
    """Raise an error if code that the settings name was not given.

    Raises:
        ConfigError: code is missing; the message lists it.
    """
    missing = {name: code for name, code in names.items() if name not in given}
    if missing:
        advice = f"Pass it again in Python, as {', '.join(f'{name}=' for name in missing)}."
        if "dls" in missing:
            advice = "Use xrayfast.learner(dls) to train on such DataLoaders; fit would read the images differently."
        raise ConfigError(
            f"{where} names code of your own, which is not saved with a run: {describe_code(missing)}. {advice}"
        )
