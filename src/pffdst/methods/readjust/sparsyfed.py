"""SparsyFed (Guastella et al., ICLR-25): clients train powers of weights and prune them; the union is sent down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from pffdst.core.facts import Facts
from pffdst.core.masks import first
from pffdst.core.model import GlobalModel, Stage
from pffdst.core.positions import Positions
from pffdst.methods.local import LocalTraining
from pffdst.methods.readjust.swap import held_of
from pffdst.methods.rule import Absent, Answer, ClientTurn, Cohort, Rule, Start

__all__ = ["SparsyFed"]


@final
@dataclass(frozen=True)
class SparsyFed(Rule):
    """The network's weights are w = sign(theta) |theta|^beta (beta: `power`); theta is what is trained and sent.

    It starts as sign(u) |u|^(1 / beta) of the initial weights u, dense. After training a client keeps the largest
    |theta| over all layers, as many as the stage has trainable weights, and sends their positions. The mean is over all
    clients, 0 where a client has none; the next round uses the union. A theta of 0 has no gradient, so dead weights
    only come back through the union. With `activations` the gradient of a layer's weights uses only the largest
    1 - s_l of its input, over the whole batch, s_l being the layer's sparsity; everything else is exact, and so are the
    gradients of weights that no layer applies to its one input, such as those of an attention's projections.
    """

    any_length: ClassVar[bool] = True
    absent: ClassVar[Absent] = "zero"
    begins_dense: ClassVar[bool] = True
    keeps_density = False
    power: float = 1.25
    activations: bool = True

    def __post_init__(self) -> None:
        if self.power < 1.0:
            raise ValueError(f"Expected `readjust.power` (beta) to be at least 1, but got {self.power}")

    # ---- server ----------------------------------------------------------------------------------------------------

    def start(self, given: Start) -> GlobalModel:
        """All weights, as theta."""
        model = given.model
        return model.with_held(_signed_power(model.held, 1 / self.power), model.rest)

    def exploration_end(self, stage: Stage) -> int:
        """The mask moves until the end."""
        return stage.stop

    def own_masks(self, stage: Stage, t: int) -> Literal["layers", "any"] | None:
        """Each client prunes for itself."""
        return "any" if t >= 0 else None

    def after_round(self, cohort: Cohort, stage: Stage, t: int, seed: int) -> GlobalModel:
        """The mean over the union of the clients' masks."""
        return cohort.mean if t < 0 else held_of(cohort)

    def effective(self, model: GlobalModel) -> GlobalModel:
        """w."""
        return model.with_held(_signed_power(model.held, self.power), model.rest)

    # ---- client ----------------------------------------------------------------------------------------------------

    def begin(self, turn: ClientTurn) -> None:
        """Hooks on the layers whose inputs are pruned for the gradient of their weights."""
        turn.scratch["sparsyfed"] = []
        if not self.activations or turn.t < 0:
            return
        layers = {f"{name}.weight": module for name, module in turn.network.named_modules()}
        for entry, alive in zip(turn.layout.layers, turn.start.alive_at.counts, strict=True):
            if alive < entry.size and entry.name in layers:
                turn.scratch["sparsyfed"] += _prune_inputs(layers[entry.name], alive / entry.size)

    def before_step(self, turn: ClientTurn) -> None:
        """The network computes with w."""
        with torch.no_grad():
            turn.scratch["theta"] = [weight.clone() for weight in turn.weights]
            for weight in turn.weights:
                weight.copy_(_signed_power(weight, self.power))

    def after_backward(self, turn: ClientTurn) -> None:
        """Restores theta, with the gradient beta |theta|^(beta - 1) dL/dw."""
        with torch.no_grad():
            for weight, theta in zip(turn.weights, turn.scratch["theta"], strict=True):
                weight.copy_(theta)
                if weight.grad is not None:
                    weight.grad.mul_(self.power * theta.abs().pow_(self.power - 1))

    def measure(self, turn: ClientTurn) -> dict[str, Any]:
        """Leaves the network as it was."""
        for handle in turn.scratch["sparsyfed"]:
            handle.remove()
        return {"trained": turn.t >= 0}

    def answer(self, trained: Answer, measured: Mapping[str, Any], stage: Stage, t: int) -> Answer:
        """The largest |theta|."""
        if not measured["trained"]:
            return trained
        at = trained.model.trainable_at
        count = min(sum(stage.counts), len(at))
        kept = torch.from_numpy(first(-trained.model.trained.abs().numpy(), count))
        model = trained.model.moved(Positions(at.layout, index=at.index[kept]))
        return replace(trained, model=model, own_mask=True)

    # ---- what can be checked in advance ----------------------------------------------------------------------------

    def problems(self, facts: Facts) -> list[str]:
        """A later stage would start from zeros, which do not train."""
        if not facts.has_stages:
            return []
        return ["readjust=sparsyfed trains powers of weights, so weights at 0 stay 0: write freeze=none"]

    def problems_beside(self, training: LocalTraining, other: Rule) -> list[str]:
        """Clients prune what they send, which the other rule must not change."""
        if type(other).own_masks is Rule.own_masks:
            return []
        return ["readjust=sparsyfed: clients already send masks of their own: write updates=plain"]


def _signed_power(values: Tensor, power: float) -> Tensor:
    return values.sign() * values.abs().pow(power)


def _prune_inputs(layer: nn.Module, share: float) -> list[Any]:
    """The layer keeps a `share` of its input, the largest |x|, for the gradient of its weights; returns its hooks.

    A layer saves its input and its weights for the backward pass; the input's gradient only needs the weights.
    """
    saving: list[Any] = []

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not inputs or not torch.is_grad_enabled():
            return None
        x, kind = inputs[0], inputs[0].device.type
        if torch.is_autocast_enabled(kind):  # the layer would cast it, and save that
            x = x.to(torch.get_autocast_dtype(kind))

        def pack(saved: Tensor) -> Tensor:
            own = saved.data_ptr() == x.data_ptr() and saved.numel() == x.numel()
            return largest_share(saved, share) if own else saved

        saving.append(torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved))
        saving[-1].__enter__()
        return x, *inputs[1:]

    def after(*_: Any) -> None:
        if saving:
            saving.pop().__exit__(None, None, None)

    return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]


def largest_share(x: Tensor, share: float) -> Tensor:
    """x with all but the round(`share` n) largest |x| of its n values 0."""
    flat = x.detach().reshape(-1)
    kept = flat.abs().topk(max(1, round(share * flat.numel())), sorted=False).indices
    pruned = torch.zeros_like(flat).index_copy_(0, kept, flat[kept])
    return torch.empty_like(x).copy_(pruned.view(x.shape))
