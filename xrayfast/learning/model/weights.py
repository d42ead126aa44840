"""Weights of networks: ImageNet's, a file's or a run's, read without running code, and written as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from xrayfast.errors import WeightsError, WriteError, shorten
from xrayfast.learning.model.backbones import Backbone, Blocks, find_backbone


@dataclass(frozen=True, eq=False)
class LoadedBackbone:
    """A backbone with its weights.

    Attributes:
        blocks: its named blocks in order; with its own classifier, that is the last one.
        pooled_side: of its row.
        unused: keys of the weight file that have no place in the network.
    """

    blocks: Blocks
    pooled_side: int
    unused: tuple[str, ...] = ()


def load_backbone(arch: str, weights: str = "none", *, with_classifier: bool = False) -> LoadedBackbone:
    """Build a backbone and load its weights.

    Args:
        arch: a name in `BACKBONES`.
        weights: "imagenet", "none" (random, from torch's global generator), or the path of a state dict (`.pth`, read
            with `weights_only=True`) or safetensors file: of the whole torchvision network, of its backbone, or of a
            run of xrayfast with the same arch; any float type.
        with_classifier: keep the hidden layers of its own classifier as the last block.

    Raises:
        ConfigError: no such backbone, or it has no such classifier.
        WeightsError: weights that can't be downloaded or read, or don't fit; the message names the tensors.
    """
    row = find_backbone(arch)
    unused: tuple[str, ...] = ()
    network = row.build(weights=None)
    blocks = row.divide(network, with_classifier=with_classifier)
    if weights == "imagenet":
        network.load_state_dict(_imagenet(row))
    elif weights != "none":
        state = _without_prefixes(read_weights(Path(weights)))
        if any(key.startswith("0.") for key in state):  # a run's own network: backbone, then head
            own = {key[2:]: value for key, value in state.items() if key.startswith("0.")}
            _copy_weights(nn.Sequential(*blocks.values()), blocks, own, weights, arch)
        else:
            unused = _copy_weights(network, blocks, state, weights, arch)
    return LoadedBackbone(blocks, row.pooled_side, unused)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict or safetensors file, read without running code.

    Raises:
        WeightsError: no such file, another format, or pickled objects other than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: can't be read as weights ({error}). Expected a .pth state dict or .safetensors file."
        ) from error
    except Exception as error:  # the restricted unpickler raises whatever its parser does
        raise WeightsError(
            f"{path}: is not a plain state dict: it is damaged, or holds Python objects, which are never loaded "
            "because they can run code. Save the tensors alone: torch.save(model.state_dict(), 'weights.pth')."
        ) from error
    if isinstance(content, Mapping):
        for name in ("state_dict", "model_state_dict", "model"):
            if isinstance(content.get(name), Mapping):
                content = content[name]
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise WeightsError(f"{path}: holds no tensors by name; expected a state dict.")


def _imagenet(row: Backbone) -> Mapping[str, Tensor]:
    name = Path(row.weights.url).name
    try:
        state: Mapping[str, Tensor] = row.weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no network, no permission, or a damaged file: each fails in its own way
        raise WeightsError(
            f"The ImageNet weights of {row.name} ({name}) are not on this machine and can't be downloaded ({error}).\n"
            "Three ways out:\n"
            f"  1. Go online and run it again, or download {row.weights.url} elsewhere and put it into\n"
            f"     {Path(torch.hub.get_dir()) / 'checkpoints'} (the environment variable TORCH_HOME moves that "
            "folder).\n"
            "  2. Give a file of weights: --weights FILE.\n"
            "  3. Train from scratch: --weights none --unfreeze (needs many more images and epochs)."
        ) from error
    return state


def _without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the prefixes of wrappers, such as DataParallel's `module.`."""
    prefixes = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.")
    state = dict(state)
    while prefix := next((p for p in prefixes if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _keys_within(network: nn.Module, *modules: nn.Module) -> set[str]:
    """The state-dict keys of a network whose tensors belong to some of its modules."""
    tensors = {id(tensor) for module in modules for tensor in module.state_dict(keep_vars=True).values()}
    return {key for key, tensor in network.state_dict(keep_vars=True).items() if id(tensor) in tensors}


def _copy_weights(
    network: nn.Module, blocks: Blocks, state: Mapping[str, Tensor], source: str, arch: str
) -> tuple[str, ...]:
    """Copy tensors into a network; all those of the blocks must be there in their shape. Returns keys that have no
    place.
    """
    own, needed = network.state_dict(), _keys_within(network, *blocks.values())
    # Batch counters matter only for cumulative averages, which none of these networks uses; old files lack them.
    missing = sorted(key for key in needed - set(state) if not key.endswith("num_batches_tracked"))
    misfits = [
        f"{key} is {_shape(state[key])}, expected {_shape(own[key])}"
        for key in sorted(needed & set(state))
        if state[key].shape != own[key].shape
    ]
    if (
        missing
        and not misfits
        and "classifier" in blocks
        and set(missing) <= _keys_within(network, blocks["classifier"])
    ):
        raise WeightsError(
            f"{source}: holds the backbone of {arch} without its own classifier; missing are {', '.join(missing)}. For "
            "--head classifier give weights of the whole network, such as --weights imagenet; or use another --head."
        )
    if missing or misfits:
        problems = ([f"{len(missing)} tensors are missing: {shorten(missing)}"] if missing else []) + misfits[:5]
        raise WeightsError(
            f"{source}: does not fit {arch}: {'; '.join(problems)}. The file holds {len(state)} tensors: "
            f"{shorten(state)}. Choose the --arch that the file was made with."
        )
    network.load_state_dict({key: state[key].to(own[key].dtype) for key in needed & set(state)}, strict=False)
    return tuple(sorted(set(state) - set(own)))


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def load_weights(model: nn.Module, path: Path) -> None:
    """Load `model.safetensors` into a network of the same arch and head.

    Raises:
        WeightsError: the file is damaged or of another network.
    """
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path}: can't be read as safetensors ({error}). The file is damaged: copy it again from where the run "
            "was made, or train the run again."
        ) from error
    own = model.state_dict()
    wrong = [key for key in own if key not in state or state[key].shape != own[key].shape] + [
        k for k in state if k not in own
    ]
    if wrong:
        raise WeightsError(
            f"{path}: is of another network than config.yaml and labels.json say; tensors that differ: "
            f"{shorten(wrong)}."
        )
    model.load_state_dict(state)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write all weights and buffers of a network as safetensors."""
    save_tensors({key: tensor.detach() for key, tensor in model.state_dict().items()}, path)


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write named tensors as safetensors.

    Raises:
        WriteError: the file can't be written.
    """
    try:
        safetensors.torch.save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    except (OSError, SafetensorError) as error:
        raise WriteError(
            f"{path.parent}: can't be written to ({error}). Check that it is open to you and not full."
        ) from error
