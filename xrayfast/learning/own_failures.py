"""Whose code has failed in training: errors of the user's own callbacks, loss and network say so."""

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
"""What fastai writes before the message of whatever a callback raises."""

_PACKAGE = Path(__file__).parents[1]


def name_own_code(error: Exception, learn: Any) -> Exception:
    """The error to raise in place of one that ended training: a TrainingError with the name and line of the user's own
    code, callbacks of fastai that the user gave included; for a device without memory, one that says what takes less;
    the same one where other code failed.
    """
    texts = [_OF_FASTAI.sub("", text) if isinstance(text, str) else text for text in error.args]
    if isinstance(error, XrayfastError):
        error.args = tuple(texts)
        return error
    # fastai itself fails on an exception without arguments.
    cause = error.__context__ if isinstance(error, IndexError) and error.__context__ else error
    owner, place = "", ""
    for frame, line in chain(*(walk_tb(one.__traceback__) for one in dict.fromkeys((error, cause)))):
        owner = owner or _owner(frame, learn)
        file = Path(frame.f_code.co_filename)
        if owner and "site-packages" not in str(file) and not file.is_relative_to(_PACKAGE):
            shown = "a cell" if "ipykernel" in str(file) else file.name
            place = f" ({shown}, line {line}, in {frame.f_code.co_name})"
    if isinstance(error, torch.OutOfMemoryError):
        return TrainingError(_out_of_memory(learn, str(texts[0]) if texts else ""))
    if not owner:
        return error
    text = f": {texts[0]}" if texts and cause is error else ""
    return TrainingError(f"{owner} failed with {type(cause).__name__}{text}{place}.")


def _out_of_memory(learn: Any, said: str) -> str:
    """What takes less memory of the device, and what torch said, in its first sentence."""
    batch, resident = learn.dls.train.bs, learn.dls.placement.resident
    advice = f"a smaller --batch-size (a batch has {batch} images; --accumulate adds up the gradients of several)"
    advice += ", a smaller --size, fewer layers unfrozen" + ", or --data-on-device off" * resident
    first = said.split(". ")[0].rstrip(".")
    return f"{learn.dls.device} is out of memory: {first}. Use {advice}. Other programs there may hold some."


def _owner(frame: FrameType, learn: Any) -> str:
    """The user's own code that a frame belongs to, in words; "" for none."""
    one = frame.f_locals.get("self")
    if any(one is cb for cb in learn.own_cbs):
        return f"The callback {type(one).__name__}"
    if one is learn.loss_func and is_own(learn.settings["loss"]):
        return f"The loss {show_setting(learn.settings['loss'])}"
    if learn.is_own and isinstance(one, nn.Module) and any(one is module for module in learn.model.modules()):
        return f"The network {show_setting(learn.arch)}"
    return ""
