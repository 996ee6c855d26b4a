"""A single-stage detector that learns from a larger one.

Shapes: B images of H x W.
Checked against mmdet 2.28.2 models/detectors/kd_one_stage.py; attribute names are the checkpoint format: the
student alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.layers.init import InitRules
from detector.models.dense_heads.ld import LDHead
from detector.models.detectors.single_stage import SingleStageDetector
from detector.structures.samples import Batch


class KnowledgeDistillationSingleStageDetector(SingleStageDetector):
    """The student; its teacher is attached for training and stays out of the state dict."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        bbox_head: LDHead,
        teacher_config: str | None = None,
        teacher_ckpt: str | None = None,
        neck: nn.Module | list[nn.Module] | None = None,
        eval_teacher: bool = True,
        init_cfg: InitRules = None,
    ) -> None:
        """Take built parts.

        Args:
            backbone: of the student.
            bbox_head: of the student.
            teacher_config: config file of the teacher, for whoever builds and attaches it.
            teacher_ckpt: its checkpoint.
            neck: of the student.
            eval_teacher: keep the teacher in eval mode.
            init_cfg: rules for the whole model.
        """
        super().__init__(backbone=backbone, bbox_head=bbox_head, neck=neck, init_cfg=init_cfg)
        self.teacher_config, self.teacher_ckpt, self.eval_teacher = teacher_config, teacher_ckpt, eval_teacher
        self._teacher: list[SingleStageDetector] = []  # a list hides it from parameters and state dict

    def attach_teacher(self, teacher: SingleStageDetector) -> None:
        """Use a built and loaded detector; it follows the student's device and gets no gradient."""
        self._teacher = [teacher.requires_grad_(False)]
        self.train(self.training)

    def train(self, mode: bool = True) -> KnowledgeDistillationSingleStageDetector:
        """Set the mode of the student, and of the teacher unless it stays in eval mode."""
        super().train(mode)
        for teacher in self._teacher:
            teacher.train(mode and not self.eval_teacher)
        return self

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by the head's names; images without objects are fine.

        Raises:
            RuntimeError: no teacher is attached.
        """
        assert batch.targets is not None, "training needs targets"
        if not self._teacher:
            raise RuntimeError(
                f"Training distils from {self.teacher_config!r}; build it, load {self.teacher_ckpt!r} and "
                "call attach_teacher first."
            )
        teacher = self._teacher[0].to(batch.images.device)
        with torch.no_grad():
            soft = teacher.bbox_head(teacher.extract_feat(batch.images))
        raw = self.bbox_head(self.extract_feat(batch.images))
        assert isinstance(self.bbox_head, LDHead)
        return self.bbox_head.distil(raw, soft, batch.targets, batch.metas)
