"""fastai's Adam and SGD, with one fused step for all layer groups that have the same hyperparameters.

fastai steps parameter by parameter, with a dozen small operations each: about 700 kernels per step for the 62
parameters of resnet18. Results, hyperparameters per layer group and optimizer state are those of fastai's optimizers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from xrayfast.config import OptimizerName
from xrayfast.learning.fastai_api import Optimizer


def make_optimizer(name: OptimizerName, momentum: float, beta2: float | None = None, eps: float | None = None) -> Any:
    """Return the `opt_func` of a learner.

    Args:
        name: "adam" or "sgd"; weight decay is decoupled in both, and does not apply to biases and batch norm.
        momentum: momentum of SGD, or Adam's first beta.
        beta2: Adam's second beta; None for fastai's.
        eps: added to the denominator of Adam's step; None for fastai's.
    """
    if name == "sgd":
        return partial(FusedSGD, mom=momentum)
    given = {key: value for key, value in (("sqr_mom", beta2), ("eps", eps)) if value is not None}
    return partial(FusedAdam, mom=momentum, **given)


class _FusedOptimizer(Optimizer):
    """Base class of optimizers that update all parameters with the same hyperparameters and weight decay at once."""

    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        with torch.no_grad():
            for parameters, decay, hyper in self._batches():
                self._step_on(parameters, decay, hyper)

    def load_state_dict(self, sd: dict[str, Any]) -> None:
        """Load a state; each average gets its parameter's memory format, which the fused kernels need."""
        super().load_state_dict(sd)
        for parameter, state in self.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value)
            if "step" in state:  # a scalar in fastai's own Adam
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=_step_device(parameter))

    def zero_grad(self) -> None:
        """Set gradients to None, so that the next backward pass writes them instead of adding to zeros."""
        for parameters in self.param_lists:
            for parameter in parameters:
                parameter.grad = None

    def _batches(self) -> Iterable[tuple[list[Tensor], float, dict[str, float]]]:
        found: dict[tuple[float, ...], tuple[list[Tensor], float, dict[str, float]]] = {}
        for parameters, hyper in zip(self.param_lists, self.hypers, strict=True):
            for parameter in parameters:
                if parameter.grad is not None:
                    decay = hyper["wd"] if self.state[parameter].get("do_wd", True) else 0.0
                    found.setdefault((decay, *hyper.values()), ([], decay, hyper))[0].append(parameter)
        return found.values()

    def _averages(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        for parameter in parameters:
            if name not in self.state[parameter]:
                self.state[parameter][name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return [self.state[parameter][name] for parameter in parameters]

    def _step_on(self, parameters: list[Tensor], decay: float, hyper: dict[str, float]) -> None:
        raise NotImplementedError


class FusedAdam(_FusedOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), torch's fused kernel and fastai's defaults."""

    def __init__(
        self, params: Any, lr: float, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5, wd: float = 0.01
    ) -> None:
        super().__init__(params, [], lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

    def _step_on(self, parameters: list[Tensor], decay: float, hyper: dict[str, float]) -> None:
        for parameter in parameters:
            if "step" not in self.state[parameter]:
                self.state[parameter]["step"] = torch.zeros((), device=_step_device(parameter))
        adamw(
            parameters,
            [p.grad for p in parameters],  # type: ignore[misc]
            self._averages(parameters, "grad_avg"),
            self._averages(parameters, "sqr_avg"),
            [],
            [self.state[p]["step"] for p in parameters],
            fused=_has_kernel(parameters[0]),
            amsgrad=False,
            maximize=False,
            beta1=hyper["mom"],
            beta2=hyper["sqr_mom"],
            lr=hyper["lr"],
            weight_decay=decay,
            eps=hyper["eps"],
        )


def _has_kernel(parameter: Tensor) -> bool:
    return parameter.device.type in ("cpu", "cuda")


def _step_device(parameter: Tensor) -> torch.device:
    """Return the device for the step count: the CPU if there is no fused kernel, since each step then reads the count,
    which would wait for the accelerator.
    """
    return parameter.device if _has_kernel(parameter) else torch.device("cpu")


class FusedSGD(_FusedOptimizer):
    """SGD with momentum and decoupled weight decay."""

    def __init__(self, params: Any, lr: float, mom: float = 0.9, wd: float = 0.01) -> None:
        super().__init__(params, [], lr=lr, mom=mom, wd=wd)

    def _step_on(self, parameters: list[Tensor], decay: float, hyper: dict[str, float]) -> None:
        averages = self._averages(parameters, "grad_avg")
        if decay:
            torch._foreach_mul_(parameters, 1 - hyper["lr"] * decay)
        torch._foreach_mul_(averages, hyper["mom"])
        torch._foreach_add_(averages, [p.grad for p in parameters])  # type: ignore[misc]
        torch._foreach_add_(parameters, averages, alpha=-hyper["lr"])
