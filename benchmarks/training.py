"""How fast a training step is, and what memory it takes, beside torchvision's own models.

    uv run python benchmarks/training.py                          Mask R-CNN R50-FPN, CPU, 2 x 320 x 320
    uv run python benchmarks/training.py --models faster mask --profile
    uv run python benchmarks/training.py --device cuda            2 x 800 x 1333, fp32 and bf16

Both sides start from the same weights, renamed, and one batch that is on the device already: the same images,
boxes, labels and bitmap masks. One step of each side in turn, in one process; a step is forward with losses,
backward, and SGD with momentum and weight decay. Memory is measured in a process per side.

ours        the unmodified 1x config as the trainer runs it: channels last on a CPU, ``precision`` as in
            training. RoIAlign samples each bin adaptively, as the reference does.
torchvision what ``maskrcnn_resnet50_fpn(weights='DEFAULT')`` trains, without resizing: stem and first stage
            frozen, 512 regions per image of 1000 proposals; bf16 by ``torch.autocast``. RoIAlign takes 4
            samples per bin. ``--channels-last`` gives it that memory order, too.
norms       ``frozen`` (default): nothing of a batch norm is trained on either side, as torchvision's frozen
            ones. ``eval``: scale and shift are trained, as the 1x configs do.

Prints a line of JSON per model and precision: medians in milliseconds, images per second, where the time
goes, and ratios ours / theirs of the paired steps, of wall-clock and of CPU time. Other load on the machine
disturbs both sides; medians of ratios bear it.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from inference import CLASSES, CONFIGS, ROOT, fill, picture, renamed, reordered, rounded
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from detector.build import build_model
from detector.config import load_config, parse_options
from detector.engine.placement import place_model
from detector.engine.precision import PrecisionPlan, use_precision
from detector.engine.step import total_loss
from detector.inference import init_detector
from detector.structures.samples import Batch, ImageMeta, Targets

PARTS = ("forward", "backward", "optimizer")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Setting:
    """What both sides run.

    Attributes:
        kind: 'faster' or 'mask'.
        precision: 'fp32' or 'bf16'.
        norm: 'frozen' or 'eval'.
        height: of the images.
        width: of the images.
        batch: images per step.
        boxes: per image.
        device: 'cpu' or 'cuda'.
        channels_last: whether torchvision's side has that memory order.
    """

    kind: str
    precision: str
    norm: str
    height: int
    width: int
    batch: int
    boxes: int
    device: str
    channels_last: bool


@dataclass(frozen=True)
class Side:
    """One side: its optimizer, and the total loss of a forward pass."""

    optimizer: torch.optim.Optimizer
    loss: Callable[[], Tensor]


def targets(setting: Setting, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (G, 4), labels (G,) and bitmaps (G, H, W) of an image: ellipses of 8 to 40 % of its sides."""
    made = torch.Generator().manual_seed(number)
    sides = torch.tensor([setting.width, setting.height])
    size = (0.08 + 0.32 * torch.rand(setting.boxes, 2, generator=made)) * sides
    corner = torch.rand(setting.boxes, 2, generator=made) * (sides - size)
    boxes = torch.cat((corner, corner + size), dim=1)
    centre, half = (corner + size / 2)[:, :, None, None], (size / 2)[:, :, None, None]
    columns, rows = torch.arange(setting.width) + 0.5, torch.arange(setting.height)[:, None] + 0.5
    inside = ((columns - centre[:, 0]) / half[:, 0]) ** 2 + ((rows - centre[:, 1]) / half[:, 1]) ** 2 <= 1
    return boxes, torch.randint(0, CLASSES, (setting.boxes,), generator=made), inside.to(torch.uint8)


def images(setting: Setting) -> Tensor:
    """(B, 3, H, W) RGB in [0, 255]."""
    height, width = (side + -side % 32 for side in (setting.height, setting.width))
    arrays = [picture(height, width, seed=i)[: setting.height, : setting.width] for i in range(setting.batch)]
    return torch.stack([torch.from_numpy(a[..., ::-1].copy()).permute(2, 0, 1).float() for a in arrays])


def ours(setting: Setting, state: dict[str, Tensor]) -> Side:
    """This project's model, as the trainer runs it."""
    cfg = load_config(str(ROOT / CONFIGS[setting.kind])).data
    device = torch.device(setting.device)
    model: Any = build_model(
        cfg["model"], training=True, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg")
    )
    model.load_state_dict(state, strict=True)
    model = place_model(model, device, {}).train()
    if setting.norm == "frozen":
        freeze_norms(model)
    use_precision(model, device, PrecisionPlan(name=setting.precision))
    batch = our_batch(setting).to(device)
    return Side(optimizer=sgd(model), loss=lambda: total_loss(model.loss(batch))[0])


def our_batch(setting: Setting) -> Batch:
    """Normalised, padded images and their targets, as the loader gives them."""
    normed = (images(setting) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    bottom, right = -setting.height % 32, -setting.width % 32
    normed = nn.functional.pad(normed, (0, right, 0, bottom))
    shape = (setting.height, setting.width)
    meta = ImageMeta(ori_hw=shape, input_hw=shape, pad_hw=(normed.shape[2], normed.shape[3]))
    found = []
    for i in range(setting.batch):
        boxes, labels, masks = targets(setting, i)
        masks = nn.functional.pad(masks, (0, right, 0, bottom))
        found.append(Targets(boxes=boxes, labels=labels, masks=masks if setting.kind == "mask" else None))
    return Batch(images=normed, metas=[meta] * setting.batch, targets=found)


def theirs(setting: Setting, state: dict[str, Tensor]) -> Side:
    """Torchvision's model; its classes start at 1."""
    norm = FrozenBatchNorm2d if setting.norm == "frozen" else nn.BatchNorm2d
    body = resnet50(weights=None, norm_layer=norm)
    make = {"faster": FasterRCNN, "mask": MaskRCNN}[setting.kind]
    model = make(
        _resnet_fpn_extractor(body, 3),
        num_classes=CLASSES + 1,
        rpn_post_nms_top_n_train=1000,
        _skip_resize=True,
    )
    own = model.state_dict()
    model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=True)
    model = model.to(setting.device).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)
    inputs = list((images(setting) / 255).to(setting.device))
    wanted = []
    for i in range(setting.batch):
        boxes, labels, masks = targets(setting, i)
        target = {"boxes": boxes, "labels": labels + 1} | ({"masks": masks} if setting.kind == "mask" else {})
        wanted.append({key: value.to(setting.device) for key, value in target.items()})

    def loss() -> Tensor:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.precision == "bf16"):
            return torch.stack([term.float() for term in model(inputs, wanted).values()]).sum()

    return Side(optimizer=sgd(model), loss=loss)


def freeze_norms(model: nn.Module) -> None:
    """Train no scale and shift of a batch norm."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(requires_grad=False)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """SGD of the 1x configs over what is trained, at a rate that keeps these weights in place."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4)


def synchronize(device: str) -> None:
    """Wait for what was started on a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def step(side: Side, device: str) -> dict[str, float]:
    """One step: wall-clock milliseconds of its parts and in all, and CPU milliseconds.

    Raises:
        RuntimeError: the loss is not finite.
    """
    synchronize(device)
    marks, cpu = [time.perf_counter()], time.process_time()
    loss = side.loss()
    synchronize(device)
    marks.append(time.perf_counter())
    side.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    synchronize(device)
    marks.append(time.perf_counter())
    side.optimizer.step()
    synchronize(device)
    marks.append(time.perf_counter())
    if not bool(torch.isfinite(loss)):
        raise RuntimeError(f"a loss of {loss.item()}")
    parts = {name: (b - a) * 1e3 for name, a, b in zip(PARTS, marks, marks[1:], strict=False)}
    return {**parts, "step": (marks[-1] - marks[0]) * 1e3, "cpu": (time.process_time() - cpu) * 1e3}


def weights(kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The same weights for us and, renamed, for torchvision."""
    scale = parse_options(["data.test.pipeline.1.img_scale=(320,320)"])  # of the image that fills them
    plain = init_detector(load_config(str(ROOT / CONFIGS[kind]), scale), None, device="cpu")
    fill(plain, picture())
    own = plain.state_dict()
    return own, {renamed(key): reordered(key, value) for key, value in own.items()}


def sides(setting: Setting) -> dict[str, Callable[[], Side]]:
    """How to make each side."""
    own, other = weights(setting.kind)
    return {"ours": lambda: ours(setting, own), "theirs": lambda: theirs(setting, other)}


def compare(setting: Setting, repeats: int) -> dict[str, Any]:
    """Medians and ratios of paired steps."""
    made = {name: make() for name, make in sides(setting).items()}
    for side in made.values():
        for _ in range(2):
            step(side, setting.device)
    pairs = [{name: step(side, setting.device) for name, side in made.items()} for _ in range(repeats)]
    report: dict[str, Any] = {**vars(setting), "threads": torch.get_num_threads()}
    if setting.device == "cuda":
        report["device"] = torch.cuda.get_device_name()
    for name in made:
        medians = {key: statistics.median(pair[name][key] for pair in pairs) for key in pairs[0][name]}
        report[name] = {**medians, "images_per_s": 1e3 * setting.batch / medians["step"]}
    for key in ("step", "cpu", *PARTS):
        ratios = [pair["ours"][key] / pair["theirs"][key] for pair in pairs]
        report[f"ratio_{key}"] = statistics.median(ratios)
    report["ratios"] = sorted(pair["ours"]["step"] / pair["theirs"]["step"] for pair in pairs)
    return report


def memory(setting: Setting, name: str) -> dict[str, float]:
    """MB at the peak of three steps of one side; on a CPU of the whole process, and what steps added."""
    side = sides(setting)[name]()
    before = resident_mb()
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step(side, setting.device)
    if setting.device == "cuda":
        return {"peak_mb": torch.cuda.max_memory_allocated() / 2**20}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": peak, "added_mb": peak - before}


def resident_mb() -> float:
    """Memory of this process now."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def memory_apart(setting: Setting, name: str, arguments: list[str]) -> dict[str, float]:
    """``memory`` in a process of its own."""
    call = [sys.executable, __file__, *arguments, "--memory-of", name]
    call += ["--models", setting.kind, "--precision", setting.precision]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def profile(setting: Setting, top: int = 25) -> str:
    """Tables of the operators that take most of each side's time."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if setting.device == "cuda" else []
    tables = []
    for name, make in sides(setting).items():
        side = make()
        step(side, setting.device)
        with torch.profiler.profile(activities=kinds) as recorded:
            for _ in range(3):
                step(side, setting.device)
        order = "self_cuda_time_total" if setting.device == "cuda" else "self_cpu_time_total"
        tables += [f"{name}:", recorded.key_averages().table(sort_by=order, row_limit=top)]
    return "\n".join(tables)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--models", nargs="+", choices=sorted(CONFIGS), default=["mask"])
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="(320 320; on a GPU 800 1333)")
    made.add_argument("--batch", type=int, default=2, help="images per step")
    made.add_argument("--boxes", type=int, default=8, help="per image")
    made.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), help="(fp32; on a GPU both)")
    made.add_argument("--norm", choices=("frozen", "eval"), default="frozen")
    made.add_argument("--channels-last", action="store_true", help="on torchvision's side, too")
    made.add_argument("--repeats", type=int, default=7, help="paired steps")
    made.add_argument("--threads", type=int, default=2, help="of torch")
    made.add_argument("--no-memory", action="store_true", help="leave the memory out")
    made.add_argument("--profile", action="store_true", help="print the operators instead of comparing")
    made.add_argument("--memory-of", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    return made


def forwarded(args: argparse.Namespace) -> list[str]:
    """Arguments that a process of its own needs, but for model and precision."""
    given = ["--device", args.device, "--batch", args.batch, "--boxes", args.boxes, "--norm", args.norm]
    given += ["--threads", args.threads, *(["--size", *args.size] if args.size else [])]
    return [str(item) for item in given] + ["--channels-last"] * args.channels_last


def main() -> None:
    """Compare, measure the memory, or profile."""
    args = parser().parse_args()
    torch.set_num_threads(args.threads)
    gpu = args.device == "cuda"
    height, width = args.size or ((800, 1333) if gpu else (320, 320))
    for kind in args.models:
        for precision in args.precision or (("fp32", "bf16") if gpu else ("fp32",)):
            setting = Setting(
                kind=kind, precision=precision, norm=args.norm, height=height, width=width, batch=args.batch,
                boxes=args.boxes, device=args.device, channels_last=args.channels_last,
            )  # fmt: skip
            if args.memory_of:
                found: Any = memory(setting, args.memory_of)
            elif args.profile:
                sys.stdout.write(profile(setting) + "\n")
                continue
            else:
                found = compare(setting, args.repeats)
                apart = () if args.no_memory else ("ours", "theirs")
                found |= {f"memory_{name}": memory_apart(setting, name, forwarded(args)) for name in apart}
            sys.stdout.write(json.dumps(rounded(found)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
