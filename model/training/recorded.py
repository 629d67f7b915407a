"""A loss and its gradients as CUDA graphs, for networks so small that launching kernels takes longer than running them.

One graph for each learner, choice and set of shapes; chance and data come in as inputs (:class:`model.training.stage.Drawn`), and
gradients are added up where they lie. The optimizer's step stays outside, so that what is not finite never gets there.
"""

from __future__ import annotations

from model.graphs import CudaGraphCache
from model.training.optimizers import Learner
from model.training.stage import Drawn, Loss, Stage


def backward(stage: Stage, learner: Learner, drawn: Drawn, share: float) -> Loss:
    """The loss; ``share`` of its gradients is added to those that are there."""
    loss = stage.loss(learner.name, drawn)
    (loss.total * share).backward()
    return Loss(loss.total.detach(), {name: value.detach() for name, value in loss.figures.items()})


class Recorded:
    """:func:`backward`, replayed. Gradients have to be there: see :meth:`Learner.zero`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._graphs: dict[str, CudaGraphCache] = {}
        self._figures: dict[tuple[str, int], tuple[str, ...]] = {}

    def __call__(self, learner: Learner, drawn: Drawn, share: float) -> Loss:
        gradients = [p.grad for p in learner.parameters.values() if p.grad is not None]
        graphs = self._graphs.setdefault(learner.name, CudaGraphCache(state=gradients))
        names, key = tuple(drawn.tensors), (learner.name, drawn.choice)

        def run(*inputs: object) -> tuple[object, ...]:
            given = Drawn(dict(zip(names, inputs, strict=True)), drawn.choice)  # type: ignore[arg-type]
            loss = backward(self._stage, learner, given, share)
            self._figures[key] = tuple(loss.figures)
            return loss.total, *loss.figures.values()

        total, *figures = (x.clone() for x in graphs(key, run, *drawn.tensors.values()))  # type: ignore[arg-type]
        return Loss(total, dict(zip(self._figures[key], figures, strict=True)))
