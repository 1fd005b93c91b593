"""AdamW's parameter groups and the schedule of the learning rate (paper, appendix A)."""

from __future__ import annotations

import torch
from torch import nn

from vixml.config.run import Optimizer as OptimizerConfig
from vixml.models.siamese import Siamese


def parameter_groups(model: Siamese, config: OptimizerConfig) -> list[dict]:
    """Return AdamW's groups: language model or new parts, with or without weight decay.

    Biases, norms (all that is one-dimensional) and free vectors are not decayed; in the official form other norms than
    those called ``LayerNorm.weight`` are (docs/deviations.md D28). Parameters without a gradient (a frozen encoder, all
    but the adapters) are left out.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_new = not name.startswith("backbone.")
        if config.weight_decay_on == "matrices":
            plain = parameter.ndim < 2
        else:
            plain = "bias" in name or name.endswith("LayerNorm.weight")
        plain = plain or name == "prototypes.free.weight"
        groups.setdefault((is_new, plain), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr_new if is_new else config.lr,
            "peak": config.lr_new if is_new else config.lr,
            "weight_decay": 0.0 if plain else config.weight_decay,
            "warmup": config.warmup_steps if config.warmup_steps_new is None or not is_new else config.warmup_steps_new,
            "ahead": config.warmup_from == "first-step",
        }
        for (is_new, plain), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def make_optimizer(model: Siamese, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW over :func:`parameter_groups`, in its fused form (one pass over the parameters)."""
    # A frozen encoder with nothing on top has nothing to learn; torch wants a group all the same.
    empty = {"params": [], "lr": config.lr, "peak": config.lr, "warmup": 0, "ahead": True}
    return torch.optim.AdamW(parameter_groups(model, config) or [empty], eps=config.eps, fused=True)


def learning_rate_factor(step: int, warmup: int, total: int, ahead: bool = True) -> float:
    """Return the schedule's factor for step ``step`` (from 0): linear warm-up, then linear decay to zero.

    Args:
        step: from 0.
        warmup: steps of warm-up.
        total: steps in all.
        ahead: whether the first step takes the first part of the ramp already; else its rate is 0 (D27).

    Example:
        >>> [learning_rate_factor(s, 2, 6) for s in range(7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
        >>> [learning_rate_factor(s, 2, 6, ahead=False) for s in range(4)]
        [0.0, 0.5, 1.0, 0.75]
    """
    if step < warmup:
        return (step + ahead) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, total: int) -> None:
    """Set every group's learning rate for step ``step`` of ``total``; a pure function, so there is no state to keep."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * learning_rate_factor(step, group["warmup"], total, group["ahead"])
