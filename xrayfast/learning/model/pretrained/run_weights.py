"""Initial weights from another run: its backbone, and its head as far as both have the same labels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xrayfast.config import NAMED_WEIGHTS, hidden_units
from xrayfast.data.labels.names import find_spelling
from xrayfast.errors import RunError, WeightsError, shorten
from xrayfast.errors.advice import quoted
from xrayfast.files.checksums import file_digest
from xrayfast.hub.download import is_hub_name
from xrayfast.learning.model.network import LayeredNetwork, StartingWeights
from xrayfast.learning.model.weights import copy_weights, read_weights
from xrayfast.own_code import OWN, show_setting
from xrayfast.runs.run import Run, published_run


def find_starting_run(weights: str) -> Run | None:
    """Return the run that the setting `weights` names by its folder or its name on the Hub; None if it names none.

    Raises:
        WeightsError: the folder is not a run, the run has no weights, or the Hub has no such run.
        ConfigError: huggingface_hub is missing.
    """
    if weights in NAMED_WEIGHTS or not (is_hub_name(weights) or Path(weights).is_dir()):
        return None
    try:
        run = published_run(weights) if is_hub_name(weights) else Run(weights)
        _ = run.model_path
    except RunError as error:
        raise WeightsError(f"weights: {error}") from error
    return run


def require_same_network(run: Run, options: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Raise a WeightsError unless a run has the same arch and head as a network.

    For a whole network of the user's own the labels have to be the same too, since its last layer isn't known.
    """
    theirs, backbone = run.config.model, f"--weights {quoted(run.path / 'model.safetensors')} loads only the backbone"
    found, given = show_setting(theirs.arch), show_setting(options["arch"])
    if found != given:
        name = theirs.arch.removeprefix(OWN)
        advice = f"Use --arch {quoted(name)}" if name == theirs.arch else f"Give {name} as arch"
        raise WeightsError(f"{run.path}: is a {found}, but arch is {given}. {advice}, or use weights of {given}.")
    if theirs.head == "none":
        if [find_spelling(label, run.labels) for label in labels] != list(run.labels):
            raise WeightsError(
                f"{run.path}: is a whole network for the labels {shorten(run.labels, 20)}, but the data have "
                f"{shorten(labels, 20)}. Use a backbone, to which a head for the new labels is added."
            )
        return
    heads = [(theirs.head, theirs.head_width), (options["head"], options["head_width"])]
    found, given = (
        f"{head} with {', '.join(map(str, hidden_units(head, width))) or 'no'} hidden units" for head, width in heads
    )
    if found != given:
        width = f" --head-width {','.join(map(str, theirs.head_width))}" if theirs.head_width else ""
        raise WeightsError(
            f"{run.path}: found the head {found}; expected {given}, as set for the new run. Use --head "
            f"{theirs.head}{width}. With any other head, {backbone}."
        )


def copy_run_weights(
    run: Run, network: LayeredNetwork, settings: Mapping[str, Any], labels: Sequence[str]
) -> LayeredNetwork:
    """Copy a run's weights into a network of the same arch and head, in place.

    If they share a label, the hidden layers of the head and the rows of shared labels in its last layer are copied too;
    the other rows keep their random weights. If they share none, the whole head does.

    Returns:
        The network, with notes on what was copied.
    """
    require_same_network(run, settings, labels)
    model, theirs, state = network.model, run.labels, read_weights(run.model_path)
    own, spelled = model.state_dict(), {label: find_spelling(label, theirs) for label in labels}
    shared = {label: known for label, known in spelled.items() if known is not None}
    if network.head != "none":
        head: Any = list(model.children())[1]
        last = f"1.{len(head) - 1}."
        for key in [key for key in own if key.startswith(last if shared else "1.")]:
            rows = own[key].clone()
            if shared and key in state and state[key].shape == (len(theirs), *rows.shape[1:]):
                for label, known in shared.items():
                    rows[labels.index(label)] = state[key][theirs.index(known)].to(rows.dtype)
            state[key] = rows
    copy_weights(model, OrderedDict(network=model), state, str(run.path), show_setting(settings["arch"]))
    new = [label for label in labels if label not in shared]
    unused = [label for label in theirs if label not in shared.values()]
    if not shared:
        text = f"the head from random weights, because the data have none of that run's labels ({shorten(theirs, 20)})"
    elif not new and not unused:
        text = "the head too, because the labels are the same"
    else:
        text = f"the head too, with its outputs for {shorten(shared, 20)}"
        text += f"; those for {shorten(new, 20)} from random weights" if new else ""
        text += f"; that run's outputs for {shorten(unused, 20)} are not used" if unused else ""
    notes = [f"The backbone starts from the run {run.downloaded or run.path}; {text}."]
    notes += [f"'{known}' of that run is used for '{label}'." for label, known in shared.items() if label != known]
    kinds = {"single": "single-label", "multi": "multi-label"}
    start = StartingWeights(
        f"The backbone started from the run {run.name}, a {kinds[run.task]} network that was trained on "
        f"{run.config.data.source.name}; {text}.",
        file_digest(run.model_path),
    )
    return replace(network, notes=(*network.notes, *notes), start=start)
