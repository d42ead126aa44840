"""Training errors that come from the user's own callbacks, loss or network, and say so."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from torch import nn

from xrayfast.errors import TrainingError, XrayfastError
from xrayfast.own_code import is_own, show_setting

_OF_FASTAI = re.compile(r"^Exception occured in `\w+` when calling event `\w+`:\n\t")
"""Text that fastai puts before the message of an exception from a callback."""

_PACKAGE = Path(__file__).parents[1]


def name_own_code(error: Exception, learn: Any) -> Exception:
    """Return the error to raise instead of one that ended training.

    If the user's own code failed (which includes fastai's callbacks that the user added), it is a TrainingError with
    the name and line of that code. If the device is out of memory, it is a TrainingError that says how to use less.
    Otherwise it is the same error.
    """
    texts = [_OF_FASTAI.sub("", text) if isinstance(text, str) else text for text in error.args]
    if isinstance(error, XrayfastError):
        error.args = tuple(texts)
        return error
    # fastai raises an IndexError of its own for an exception without arguments; the context is the real error.
    cause = error.__context__ if isinstance(error, IndexError) and error.__context__ else error
    owner, place = "", ""
    for frame, line in chain(*(walk_tb(one.__traceback__) for one in ((error,) if cause is error else (error, cause)))):
        owner = owner or _owner(frame, learn)
        file = Path(frame.f_code.co_filename)
        if owner and "site-packages" not in str(file) and not file.is_relative_to(_PACKAGE):
            shown = "a cell" if "ipykernel" in str(file) else file.name
            place = f" ({shown}, line {line}, in {frame.f_code.co_name})"
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(_out_of_memory(learn, str(texts[0]) if texts else ""))
    if "does not require grad" in str(cause):
        return TrainingError(
            "No gradient reaches the network, because the loss does not depend on weights that train: look for "
            f"detach, .data, no_grad or a constant in {owner[0].lower() + owner[1:] if owner else 'your own code'}."
        )
    if not owner:
        return error
    text = f": {texts[0]}" if texts and cause is error else ""
    return TrainingError(f"{owner} failed with {type(cause).__name__}{text}{place}.")


def _out_of_memory(learn: Any, said: str) -> str:
    """Return a message with torch's first sentence and the settings that need less memory."""
    batch, resident = learn.dls.train.bs, learn.dls.placement.resident
    advice = f"a smaller --batch-size (a batch has {batch} images; --accumulate adds up the gradients of several)"
    advice += ", a smaller --size, fewer layers unfrozen" + ", or --data-on-device off" * resident
    first = said.split(". ")[0].rstrip(".")
    return f"{learn.dls.device} is out of memory: {first}. Use {advice}. Other programs may also be using its memory."


def _owner(frame: FrameType, learn: Any) -> str:
    """Describe the user's own code that a frame belongs to; "" if it belongs to none."""
    one = frame.f_locals.get("self")
    if any(one is cb for cb in learn.own_cbs):
        return f"The callback {type(one).__name__}"
    if one is learn.loss_func and is_own(learn.settings["loss"]):
        return f"The loss {show_setting(learn.settings['loss'])}"
    if learn.is_own and isinstance(one, nn.Module) and any(one is module for module in learn.model.modules()):
        return f"The network {show_setting(learn.arch)}"
    return ""
