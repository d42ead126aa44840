"""Locate weights of torchxrayvision's DenseNets (Cohen et al. 2022) by the names that it gives them.

torchxrayvision's own files are pickles, which can run code and are never read; it can convert them to state dicts.
"""

from __future__ import annotations

from pathlib import Path

from xrayfast.errors import ConfigError, did_you_mean

XRV = "xrv:"
"""Prefix of `weights` that name one of these DenseNets."""

_NAMES = [f"densenet121-res224-{data}" for data in ("all", "nih", "pc", "chex", "rsna", "mimic_nb", "mimic_ch")]


def xrv_file(weights: str) -> str:
    """Return the path of the state dict for "xrv:NAME", whether or not it exists; return other weights unchanged.

    Raises:
        ConfigError: there is no such DenseNet.
    """
    name = weights.removeprefix(XRV)
    if name == weights:
        return weights
    if name not in _NAMES:
        known = ", ".join(_NAMES)
        raise ConfigError(
            f"found {weights}; expected {XRV}NAME, where NAME is one of: {known}.{did_you_mean(name, _NAMES)}"
        )
    return str(Path.home() / ".torchxrayvision" / f"{name}.pth")


def how_to_make(weights: str) -> str:
    """Return a sentence on how to make such a state dict; "" for other files."""
    path = Path(weights)
    if path.suffix != ".pth" or path.stem not in _NAMES:
        return ""
    code = f"torch.save(xrv.models.DenseNet(weights='{path.stem}').state_dict(), '{path}')"
    return f' Make it with torchxrayvision: python -c "import torch, torchxrayvision as xrv; {code}".'
