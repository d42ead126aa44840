"""Weights of networks: ImageNet weights, files that are read without running code, and safetensors that are written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from xrayfast.errors import WeightsError, WriteError, plural, shorten
from xrayfast.files.atomic import replace_atomically
from xrayfast.files.intact import find_run_folder, require_intact
from xrayfast.files.regular_files import require_regular_file
from xrayfast.files.xrv_weights import how_to_make
from xrayfast.learning.model.backbones import Backbone, Blocks, find_backbone
from xrayfast.learning.model.pretrained.xrv_networks import as_torchvision

_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names of DenseNet's layers in torchvision before 0.4, such as `denselayer1.norm.1.weight`."""

MAX_BYTES = 2**34
"""Size of the largest weight file that is read; vgg16 with its optimizer state has 2 GB."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int64, torch.int32)

# Globals that a pickle needs for a NumPy scalar, such as the best accuracy that was saved with the tensors. NumPy 1
# writes the first name, NumPy 2 the second.
_NUMPY_SCALARS: list[Any] = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64)),
]


@dataclass(frozen=True, eq=False)
class LoadedBackbone:
    """A backbone with its weights.

    Attributes:
        blocks: its named blocks in order; the last one may be "classifier".
        pooled_side: see `Backbone`.
        features: number of channels of its output; None if it has to be run to find it.
        unused: names of the tensors in the weight file that are not used, such as those of its head.
    """

    blocks: Blocks
    pooled_side: int
    features: int | None = None
    unused: tuple[str, ...] = ()


def load_backbone(
    arch: str, weights: str = "none", *, with_classifier: bool = False, size: int = 224
) -> LoadedBackbone:
    """Build a backbone and load its weights.

    Args:
        arch: a name in `BACKBONES`, or "timm:NAME".
        weights: "imagenet", "none" (random, from torch's global generator), or the path of a state dict (`.pth`, read
            with `weights_only=True`) or safetensors file, of any float type. It may hold the whole torchvision network,
            its backbone, or a network of xrayfast with the same arch, with or without the prefixes of wrappers, or a
            DenseNet of torchxrayvision. A head in the file is not used.
        with_classifier: keep the hidden layers of its own classifier as the last block.
        size: side of the images in pixels, on which networks of timm may depend.

    Raises:
        ConfigError: there is no such backbone, or its classifier has no hidden layers.
        WeightsError: the weights can't be downloaded or read, or don't fit; the message names the tensors.
    """
    row = find_backbone(arch, size)
    unused: tuple[str, ...] = ()
    own_loader = weights == "imagenet" and row.weights is None
    network = row.build(weights=weights if own_loader else None)
    blocks = row.divide(network, with_classifier=with_classifier)
    if weights == "imagenet" and not own_loader:
        network.load_state_dict(_imagenet(row))
    elif weights not in ("none", "imagenet"):
        unused = copy_weights(network, blocks, as_torchvision(read_weights(Path(weights))), weights, arch)
    return LoadedBackbone(blocks, row.pooled_side, None if with_classifier else row.features, unused)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict or safetensors file without running code.

    Raises:
        WeightsError: the file is missing, has another format, holds pickled objects other than tensors, or belongs to a
            run and has changed since it was written.
    """
    expected = f"weights (.pth state dict or .safetensors).{how_to_make(str(path))}".removesuffix(".")
    size = require_regular_file(path, expected, MAX_BYTES, WeightsError).st_size
    if find_run_folder(path.parent):
        require_intact(path, WeightsError)
    if is_zipfile(path) and (unpacked := _unpacked_size(path)) > 2 * size:
        raise WeightsError(
            f"{path}: is compressed: {unpacked / 1e6:,.0f} MB in a file of {size / 1e6:,.1f} MB; expected an "
            "uncompressed state dict, as torch.save writes it."
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # Settings are checked within the meta device, on which sparse tensors can't be read.
        with torch.serialization.safe_globals(_NUMPY_SCALARS), torch.device("cpu"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: can't be read as weights ({error}). Expected a .pth state dict or .safetensors file."
        ) from error
    except Exception as error:  # the restricted unpickler can raise many kinds of errors
        raise WeightsError(
            f"{path}: is not a plain state dict: it is damaged, or contains Python objects, which are never loaded "
            "because they can run code. Save only the tensors: torch.save(model.state_dict(), 'weights.pth'), or in "
            "fastai learn.save('weights', with_opt=False)."
        ) from error
    if isinstance(content, Mapping):
        for name in ("state_dict", "model_state_dict", "model", "net"):
            if isinstance(content.get(name), Mapping):
                content = content[name]
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise WeightsError(f"{path}: contains no named tensors; expected a state dict.")


def _unpacked_size(path: Path) -> int:
    with contextlib.suppress(BadZipFile, OSError), ZipFile(path) as file:
        return sum(item.file_size for item in file.infolist())
    return 0


def _imagenet(row: Backbone) -> Mapping[str, Tensor]:
    name = Path(row.weights.url).name
    try:
        state: Mapping[str, Tensor] = row.weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, no permission, or a damaged file: each fails in its own way
        raise WeightsError(
            f"The ImageNet weights of {row.name} ({name}) are not on this machine and can't be downloaded ({error}).",
            "Three ways out:",
            f"  1. Go online and run it again, or download {row.weights.url} elsewhere and put it into",
            f"     {Path(torch.hub.get_dir()) / 'checkpoints'} (the environment variable TORCH_HOME moves that "
            "folder).",
            "  2. Give a file of weights: --weights FILE.",
            "  3. Train from scratch: --weights none --unfreeze (needs many more images and epochs).",
        ) from error
    return state


def _find_networks(state: Mapping[str, Tensor], keys: set[str]) -> dict[str, dict[str, str]]:
    """Find a network's keys in a state dict, with any prefix that wrappers such as DataParallel add.

    Returns, for each prefix, the name in the state dict of each key that was found.

    >>> _find_networks({"module.net.conv.weight": torch.empty(1), "fc.bias": torch.empty(1)}, {"conv.weight"})
    {'module.net.': {'conv.weight': 'module.net.conv.weight'}}
    """
    found: dict[str, dict[str, str]] = {}
    for name in state:
        key = _OLD_DENSENET.sub(r"\1\2", name)
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", key))):
            if key[start:] in keys:
                found.setdefault(key[:start], {})[key[start:]] = name
    return found


def _keys_within(network: nn.Module, *modules: nn.Module) -> set[str]:
    """Return the state-dict keys of a network whose tensors belong to the given modules."""
    tensors = {id(tensor) for module in modules for tensor in module.state_dict(keep_vars=True).values()}
    return {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in tensors}


def copy_weights(
    network: nn.Module, blocks: Blocks, state: Mapping[str, Tensor], source: str, arch: str
) -> tuple[str, ...]:
    """Copy tensors into a network, and return the names of those that are not used, such as those of another head.

    Every tensor of the blocks must be there, in the right shape.
    """
    # The networks of runs have the blocks in sequence, so their keys differ from those of the whole network.
    in_sequence = nn.Sequential(*blocks.values())
    choices = [(network, _keys_within(network, *blocks.values())), (in_sequence, set(in_sequence.state_dict()))]
    located = [(target, needed, _find_networks(state, needed)) for target, needed in choices]
    target, needed, found = max(located, key=lambda choice: max(map(len, choice[2].values()), default=0))
    prefixes = [prefix for prefix in found if len(found[prefix]) == max(map(len, found.values()))]
    names = found[prefixes[0]] if prefixes else {}
    own = target.state_dict()
    # Old files lack num_batches_tracked. It matters only with momentum=None, which none of these networks has.
    missing = sorted(key for key in needed - set(names) if not key.endswith("num_batches_tracked"))
    misfits = [
        f"{names[key]} is {_shape(state[names[key]])}, expected {_shape(own[key])}"
        for key in sorted(names)
        if state[names[key]].shape != own[key].shape
    ]
    if (
        missing
        and not misfits
        and "classifier" in blocks
        and set(missing) <= _keys_within(target, blocks["classifier"])
    ):
        raise WeightsError(
            f"{source}: contains the backbone of {arch} but not its classifier; missing are {', '.join(missing)}. "
            "For --head classifier, use weights of the whole network, such as --weights imagenet; or use another "
            "--head."
        )
    if missing or misfits:
        problems = ([f"missing tensors: {shorten(missing)}"] if missing else []) + misfits[:5]
        raise WeightsError(
            f"{source}: does not fit {arch}: {'; '.join(problems)}. The file contains "
            f"{plural(len(state), 'tensor')}: {shorten(state)}. Use the --arch that the file was made with."
        )
    if len(prefixes) > 1:
        raise WeightsError(
            f"{source}: contains {len(prefixes)} networks that fit {arch}, under the names "
            f"{', '.join(sorted(prefixes))}; expected one. Save the tensors of only one of them."
        )
    checked = {key: _checked(state[name], own[key], name, source) for key, name in names.items()}
    target.load_state_dict(checked, strict=False)
    return tuple(sorted(set(state) - set(names.values())))


def _checked(tensor: Tensor, own: Tensor, name: str, source: str) -> Tensor:
    """Return a tensor of a file, converted to the float type of the network's own tensor."""
    found = ""
    if tensor.is_meta:
        found = "is on the meta device, so it has no values"
    elif tensor.is_quantized:
        found = f"is quantized ({tensor.dtype})"
    elif tensor.layout != torch.strided:
        found = f"is sparse ({tensor.layout})"
    elif tensor.dtype not in (_FLOATS if own.is_floating_point() else _INTEGERS):
        found = f"is of type {str(tensor.dtype).removeprefix('torch.')}"
    elif own.is_floating_point():
        if not (tensor := tensor.to(own.dtype)).isfinite().all():
            found = (
                f"has {plural(int(tensor.isnan().sum()), 'NaN value')} and "
                f"{plural(int(tensor.isinf().sum()), 'infinite value')}"
            )
        elif name.endswith("running_var") and bool((tensor < 0).any()):
            found = "has negative variances"
        elif (largest := float(tensor.detach().abs().amax()) if tensor.numel() else 0.0) > _limit(name):
            found = f"has values of up to {largest:.0e}, but trained networks have none above {_limit(name):.0e}"
        elif not largest and _is_never_zero(name, tensor):
            found = "is all zeros, which is not so in a trained network"
    if found:
        expected = "floats" if own.is_floating_point() else "whole numbers"
        raise WeightsError(
            f"{source}: {name} {found}; expected finite {expected}. The file is damaged or was made for another "
            "purpose: save the weights of the trained network in float32."
        )
    return tensor.to(own.dtype)


def _limit(name: str) -> float:
    """Return the largest allowed value: more than a thousand times the largest in torchvision's weights."""
    return 1e12 if ".running_" in name else 1e6


def _is_never_zero(name: str, tensor: Tensor) -> bool:
    """Whether all zeros in this tensor would make the layer's output the same for every image.

    Biases may be all zeros, and so may the scales of batch norm (torchvision's `zero_init_residual`).
    """
    return name.endswith("running_var") or (name.endswith("weight") and tensor.ndim > 1)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def require_weights_of(model: nn.Module, path: Path) -> None:
    """Raise a WeightsError unless the names and shapes in the header of `model.safetensors` are those of a network.

    No tensor is loaded, and the network may be on the meta device.
    """
    require_regular_file(path, "the weights of a run", MAX_BYTES, WeightsError)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - it has no iterator
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: can't be read as safetensors ({error}). The file is damaged: copy it again from where the run "
            "was made, or train the run again."
        ) from error
    own = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    if wrong := [key for key in {**own, **found} if own.get(key) != found.get(key)]:
        raise WeightsError(
            f"{path}: contains another network than config.yaml and labels.json describe; tensors that differ: "
            f"{shorten(wrong)}."
        )


def load_weights(model: nn.Module, path: Path) -> None:
    """Load `model.safetensors` into a network of the same arch and head."""
    require_weights_of(model, path)
    state, own = safetensors.torch.load_file(path), model.state_dict()
    model.load_state_dict({key: _checked(state[key], own[key], key, str(path)) for key in state})


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict of a network as safetensors, atomically."""
    save_tensors({key: tensor.detach() for key, tensor in model.state_dict().items()}, path)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write named tensors as safetensors, atomically."""
    try:
        with replace_atomically(path) as temporary:
            safetensors.torch.save_file(
                {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary
            )
    except (OSError, SafetensorError) as error:
        raise WriteError(
            f"{path.parent}: can't be written to ({error}). Check that the folder is writable and that the disk is "
            "not full."
        ) from error
