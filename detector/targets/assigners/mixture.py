"""Which candidates of a box are positive: the good side of a mixture of two Gaussians over their losses.

Shapes: S candidates of the batch, G groups (one per ground-truth box), N candidates of a group at most.
Paper: Kim and Lee, ECCV 2020, arXiv:2007.08103 (scheme (c) of figure 3); checked against mmdet 2.28.2
models/dense_heads/paa_head.py and the expectation-maximisation of scikit-learn's GaussianMixture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDS = 100
_TOLERANCE = 1e-3
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Mixture:
    """Two Gaussians for each of G groups.

    Attributes:
        weights: (G, 2).
        means: (G, 2).
        variances: (G, 2).
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def log_density(self, values: Tensor) -> Tensor:
        """Log of each weighted component at values (G, N): (G, N, 2)."""
        variances = self.variances[:, None]
        distance = (values[..., None] - self.means[:, None]) ** 2 / variances
        return self.weights.log()[:, None] - 0.5 * (math.log(2 * math.pi) + variances.log() + distance)


def fit_mixture(values: Tensor, valid: Tensor, *, tied: bool = False) -> Mixture:
    """Expectation-maximisation from equal weights, unit variances and the extreme values as means.

    Args:
        values: (G, N) float64.
        valid: (G, N) bool, at least one of each group.
        tied: one variance for both components.

    Returns:
        the mixture of each group, as of the round in which its likelihood moved by less than 0.001.
    """
    means = torch.stack(
        (values.masked_fill(~valid, math.inf).amin(dim=1), values.masked_fill(~valid, -math.inf).amax(dim=1)),
        dim=1,
    )
    mixture = Mixture(weights=torch.full_like(means, 0.5), means=means, variances=torch.ones_like(means))
    count = valid.sum(dim=1).to(values)
    active, likelihood = torch.ones_like(count, dtype=torch.bool), torch.full_like(count, -math.inf)
    for _ in range(_ROUNDS):
        density = mixture.log_density(values)
        total = density.logsumexp(dim=2)
        now = total.masked_fill(~valid, 0).sum(dim=1) / count
        shares = (density - total[..., None]).exp() * valid[..., None]
        mixture = _moved(mixture, _maximised(values, shares, count, tied=tied), active)
        active = active & ((now - likelihood).abs() >= _TOLERANCE)
        likelihood = now
        if not bool(active.any()):
            break
    return mixture


def _maximised(values: Tensor, shares: Tensor, count: Tensor, *, tied: bool) -> Mixture:
    """The mixture most likely under shares (G, N, 2) of the values (G, N)."""
    mass = shares.sum(dim=1) + 10 * torch.finfo(values.dtype).eps
    means = (shares * values[..., None]).sum(dim=1) / mass
    squares = (shares * values[..., None] ** 2).sum(dim=1)
    if tied:
        variances = (squares - mass * means**2).sum(dim=1, keepdim=True) / mass.sum(dim=1, keepdim=True)
        variances = variances.expand_as(means)
    else:
        variances = squares / mass - means**2
    return Mixture(
        weights=mass / count[:, None], means=means, variances=variances.clamp(min=0) + _LEAST_VARIANCE
    )


def _moved(old: Mixture, new: Mixture, active: Tensor) -> Mixture:
    """The new values of active groups (G,), the old ones of the others."""
    chosen = {k: torch.where(active[:, None], v, getattr(old, k)) for k, v in vars(new).items()}
    return Mixture(**chosen)


def _rank_within(groups: Tensor, losses: Tensor) -> Tensor:
    """Place (S,) of every candidate among those of its group (S,), smallest loss first."""
    order = losses.argsort(stable=True)
    order = order[groups[order].argsort(stable=True)]
    _, counts = torch.unique_consecutive(groups[order], return_counts=True)
    starts = (counts.cumsum(dim=0) - counts).repeat_interleave(counts)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts
    return rank


@torch.no_grad()
def keep_likely(losses: Tensor, groups: Tensor, levels: Tensor, *, topk: int, tied: bool = False) -> Tensor:
    """Which candidates stay positive.

    Args:
        losses: (S,) loss of every candidate.
        groups: (S,) int64, equal for candidates of one box of one image.
        levels: (S,) int64 feature level of every candidate.
        topk: candidates of one box and level that take part, those of smallest loss.
        tied: one variance for both components.

    Returns:
        (S,) bool; a box with fewer than two candidates keeps none.
    """
    keep = torch.zeros_like(groups, dtype=torch.bool)
    if len(losses) == 0:
        return keep
    per_level = groups * (int(levels.max()) + 1) + levels
    rows = torch.nonzero(_rank_within(per_level, losses) < topk).flatten()
    ids, place, counts = groups[rows].unique(return_inverse=True, return_counts=True)
    rows, place = rows[counts[place] >= 2], place[counts[place] >= 2]
    if len(rows) == 0:
        return keep
    rank = _rank_within(place, losses[rows])
    values = torch.zeros(len(ids), int(counts.max()), dtype=torch.float64)  # small; many rounds: on the CPU
    valid = torch.zeros_like(values, dtype=torch.bool)
    values[place.cpu(), rank.cpu()], valid[place.cpu(), rank.cpu()] = losses[rows].double().cpu(), True
    some = valid.any(dim=1)
    good = torch.zeros_like(valid)
    good[some] = _good_side(values[some], valid[some], tied=tied)
    keep[rows] = good[place.cpu(), rank.cpu()].to(keep.device)
    return keep


def _good_side(values: Tensor, valid: Tensor, *, tied: bool) -> Tensor:
    """Ascending losses (G, N): those of the lower component up to the likeliest of them, (G, N) bool."""
    density = fit_mixture(values, valid, tied=tied).log_density(values)
    lower = (density[..., 0] >= density[..., 1]) & valid
    peak = density.logsumexp(dim=2).masked_fill(~lower, -math.inf).argmax(dim=1)
    return lower & (torch.arange(values.shape[1]) <= peak[:, None])
