"""A network's passes as CUDA graphs: one launch each, where hundreds of kernels are launched one by one otherwise.

On an H100 those launches take the CPU twice as long as the GPU computes (resnet18, 224 px, batches of 64).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xrayfast.errors.escapes import warn

Pass = Callable[[Tensor], Tensor]


class GraphedPasses:
    """Finds a graph of a network's pass over a batch; it gives the same outputs and gradients, to the bit.

    A pass is captured when it is seen for the second time: with the same parameters in the same places, the same
    layers training, the same shape of the batch and float type. What is captured later changes none of the generators,
    weights or statistics.

    Attributes:
        problem: why passes are not captured, once that has failed, or "".
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all graphs, and free their memory."""
        self._found: dict[Hashable, Pass | None] = {}
        self._pool: Any = None
        self.problem = ""

    def find(self, network: nn.Module, images: Tensor) -> Pass | None:
        """The graph of this pass; None where it is to be computed as it is.

        Args:
            network: one whose layers always compute alike, such as torchvision's; with hooks on layers that an observer
                has registered, or gradients that others are to be added to, there is none.
            images: the batch.
        """
        if images.device.type != "cuda" or self.problem or _is_observed(network):
            return None
        grad = torch.is_grad_enabled()
        if grad and any(parameter.grad is not None for parameter in network.parameters()):
            return None
        key = _describe(network, images)
        if key not in self._found:  # libraries choose and load their kernels in the first pass
            self._found[key] = None
            return None
        if self._found[key] is None:
            self._found[key] = self._capture(network, images, _TrainingGraph if grad else _InferenceGraph)
        return self._found[key]

    def _capture(self, network: nn.Module, images: Tensor, kind: type[_Graph]) -> Pass | None:
        drawn = torch.get_rng_state()
        try:
            with _unchanged(network, images.device):
                if self._pool is None:
                    self._pool = torch.cuda.graph_pool_handle()
                graph = kind(network, images, self._pool)
        except RuntimeError as error:  # such as the end of the memory
            self.problem = str(error).partition("\n")[0]
        else:
            if torch.equal(drawn, torch.get_rng_state()):
                return graph
            self.problem = "it draws random numbers on the CPU"
        finally:
            torch.set_rng_state(drawn)
        self._found.clear()
        torch.cuda.empty_cache()
        why = f"No CUDA graph of the network can be made ({self.problem})"
        warn(f"{why}: its kernels are launched one by one, which takes longer.")
        return None


class _Graph:
    """Captures a pass over images of this shape."""

    def __init__(self, network: nn.Module, images: Tensor, pool: Any) -> None:
        self.images = images.clone()
        self.stream = torch.cuda.Stream(images.device)
        self.stream.wait_stream(torch.cuda.current_stream(images.device))
        self.pool = pool
        kind, device = torch.get_autocast_dtype("cuda"), images.device.type
        # Weights that autocast has cast before are of their values then.
        with torch.autocast(device, kind, torch.is_autocast_enabled("cuda"), cache_enabled=False):
            with torch.cuda.stream(self.stream):
                self.warm_up(network)
            torch.cuda.current_stream(images.device).wait_stream(self.stream)
            self.capture(network)

    def record(self) -> Any:
        """The context in which a graph is recorded. Other threads go on with theirs, such as writing a checkpoint."""
        self.graph = torch.cuda.CUDAGraph()
        return torch.cuda.graph(self.graph, self.pool, self.stream, capture_error_mode="thread_local")

    def warm_up(self, network: nn.Module) -> None:
        raise NotImplementedError

    def capture(self, network: nn.Module) -> None:
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class _InferenceGraph(_Graph):
    """Without gradients."""

    def warm_up(self, network: nn.Module) -> None:
        network(self.images)

    def capture(self, network: nn.Module) -> None:
        with self.record():
            self.output: Tensor = network(self.images)

    def __call__(self, images: Tensor) -> Tensor:
        self.images.copy_(images)
        self.graph.replay()
        return self.output.clone()


class _TrainingGraph(_Graph):
    """Forward and backward, a graph each, as in torch.cuda.make_graphed_callables, whose capture fails where other
    threads use the device.
    """

    def warm_up(self, network: nn.Module) -> None:
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        output = network(self.images)
        self._differentiate(output, torch.zeros_like(output))

    def capture(self, network: nn.Module) -> None:
        with self.record():
            output = network(self.images)
        self.forward, self.output_gradient = self.graph, torch.zeros_like(output)
        with self.record():
            self.gradients = self._differentiate(output, self.output_gradient)
        self.backward, self.output = self.graph, output.detach()

    def _differentiate(self, output: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(output, self.parameters, gradient, allow_unused=True)

    def __call__(self, images: Tensor) -> Tensor:
        output: Tensor = _Replay.apply(self, images, *self.parameters)
        return output


class _Replay(torch.autograd.Function):
    """The network as one function of its images and parameters."""

    @staticmethod
    def forward(ctx: Any, graph: _TrainingGraph, images: Tensor, *parameters: Tensor) -> Tensor:
        ctx.graph = graph
        graph.images.copy_(images)
        graph.forward.replay()
        return graph.output.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        graph = ctx.graph
        graph.output_gradient.copy_(gradient)
        graph.backward.replay()
        return (None, None, *(None if found is None else found.detach() for found in graph.gradients))


def _is_observed(network: nn.Module) -> bool:
    """Whether something of others is called within the pass, which a graph leaves out."""
    own = "xrayfast."
    return "forward" in vars(network) or any(
        not getattr(hook, "__module__", "").startswith(own)
        for module in network.modules()
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        for hook in hooks.values()
    )


def _describe(network: nn.Module, images: Tensor) -> Hashable:
    """All that a pass depends on but values."""
    cast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    modules = tuple(
        (module.training, getattr(module, "p", None), getattr(module, "momentum", None)) for module in network.modules()
    )
    tensors = tuple((tensor.data_ptr(), tensor.requires_grad) for tensor in (*network.parameters(), *network.buffers()))
    return torch.is_grad_enabled(), cast, images.shape, images.stride(), images.dtype, modules, tensors


@contextmanager
def _unchanged(network: nn.Module, device: torch.device) -> Iterator[None]:
    """After it the device's generator and the network's buffers are as they were."""
    drawn, buffers = torch.cuda.get_rng_state(device), list(network.buffers())
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        torch.cuda.set_rng_state(drawn, device)
        for buffer, before in zip(buffers, kept, strict=True):
            buffer.copy_(before)
