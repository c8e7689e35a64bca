"""Fine-tunes a classifier on one folder of images per class.

    python examples/finetune_classification.py --train TRAIN --test TEST --model stellar-b16 --output OUTPUT
    accelerate launch examples/finetune_classification.py ...   # several GPUs
    ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 examples/finetune_classification.py ...   # processes on a CPU

Images that cannot be read are named and left out.

The classifier is a LayerNorm and a linear layer on the mean of the sparse tokens. `--mode full` trains the encoder and
the classifier, `--mode frozen` trains the classifier alone, and `--mode lora` trains the classifier and low-rank
updates of the attention, which are merged into the weights at the end. OUTPUT gets the encoder, which
`StellarModel.from_pretrained(OUTPUT)` loads, and the classifier; `load_classifier(OUTPUT)` of `stellar_classifier.py`
loads both. `L` is not trained: the old projections compute it from the new tokens.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import parse_flag_from_env, set_seed
from class_folders import UNREADABLE, ClassFolderDataset, ClassFolders, augmented_images, prepared_images
from stellar_classifier import StellarClassifier, build_classifier, import_peft, save_classifier
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.utils.logging import disable_progress_bar

from stellar_hub import StellarImageProcessor, StellarModel
from stellar_hub.data.workers import default_num_workers
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.old_names import hint_of_new_name
from stellar_hub.progress import Progress
from stellar_hub.training.start import check_launcher

LEARNING_RATES = {"full": 1e-4, "frozen": 1e-2, "lora": 1e-3}
WARMUP_SHARE = 0.1
REPORT_EVERY = 10  # steps; reading the loss waits for the device
MAX_WAIT = 600  # seconds to wait for a batch before the disk counts as stuck


def make_accelerator(precision: str, batch_size: int, seed: int) -> Accelerator:
    """Returns the accelerator of the launched processes, which divide each batch among them.

    Raises:
        ValueError: if the batch cannot be split evenly, or the launcher started fewer processes than it was asked for.
    """
    check_launcher()
    use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    if precision == "auto":
        on_gpu = not use_cpu and torch.cuda.is_available()
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True, data_seed=seed),
    )
    if batch_size % accelerator.num_processes:
        raise ValueError(
            f"--batch-size must be a multiple of the {accelerator.num_processes} processes, got {batch_size}"
        )
    # Each process has its own seed; otherwise all would draw the same crops. DDP and the sampler share what is common.
    set_seed(seed, device_specific=True)
    return accelerator


def train(
    accelerator: Accelerator, classifier: nn.Module, optimizer: Any, loader: Any, args: argparse.Namespace
) -> None:
    """Trains for all epochs; the learning rate rises for a tenth of the steps and then falls as a cosine.

    Raises:
        RuntimeError: if the loss is not finite.
    """
    steps = args.epochs * len(loader)
    warmup = round(WARMUP_SHARE * steps)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=steps - warmup,
        warmup_t=warmup,
        warmup_lr_init=1e-6,
        warmup_prefix=True,
        cycle_decay=0.5,  # of a second cycle, which there is not; timm warns of cosines of one step without it
    )
    num_images = args.epochs * len(loader.dataset)
    progress = Progress(num_images, "image", args.mode, enabled=accelerator.is_main_process)
    classifier.train()
    done, shown = 0, ""
    for step, (pixel_values, labels) in enumerate(batch for _ in range(args.epochs) for batch in loader):
        schedule.step(step)
        loss = mean_loss(classifier(pixel_values), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(classifier.parameters(), args.clip_norm)
        optimizer.step()
        if step % REPORT_EVERY == 0 or step == steps - 1:
            if not torch.isfinite(loss):
                raise RuntimeError(f"the loss is {loss.item()} at step {step}: lower --learning-rate")
            shown = f"loss {loss.item():.3f}"
        count = min(len(labels) * accelerator.num_processes, num_images - done)
        done += count
        progress.update(count, shown)
    progress.close()


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross-entropy over the images that could be read; 0 if there are none."""
    total = F.cross_entropy(logits, labels, ignore_index=UNREADABLE, reduction="sum")
    return total / (labels != UNREADABLE).sum().clamp(min=1)


@torch.no_grad()
def count_right(accelerator: Accelerator, classifier: nn.Module, loader: Any, majority: int) -> tuple[int, int, int]:
    """Counts images over all processes.

    Returns:
        Number of images that are classified correctly, that belong to the class `majority`, and that could be read.
    """
    classifier.eval()
    right = in_majority = readable = seen = 0
    for pixel_values, labels in loader:
        # accelerate fills up a last batch that does not split evenly with images of the first, and removes them here.
        predicted, labels = accelerator.gather_for_metrics((classifier(pixel_values).argmax(dim=1), labels))
        right += int((predicted == labels).sum())
        in_majority += int((labels == majority).sum())
        readable += int((labels != UNREADABLE).sum())
        seen += len(labels)
    assert seen == len(loader.dataset), f"{seen} of {len(loader.dataset)} images were counted"
    return right, in_majority, readable


def check_arguments(args: argparse.Namespace) -> None:
    """Checks the options before anything is loaded.

    Raises:
        FileExistsError: if OUTPUT is a file, or is not empty and `--overwrite` is not given.
        ImportError: if `--mode lora` cannot import peft.
        ValueError: if a number is out of its range, or options do not fit together.
    """
    for name, lowest in (("epochs", 1), ("batch_size", 1), ("lora_rank", 1), ("num_workers", 0)):
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {lowest}, got {value}")
    if args.learning_rate is not None and args.learning_rate <= 0:
        raise ValueError(f"--learning-rate must be above 0, got {args.learning_rate}")
    if args.layer_decay is not None and args.mode != "full":
        raise ValueError(f"--layer-decay needs --mode full, got --mode {args.mode}")
    if args.layer_decay is not None and not 0 < args.layer_decay <= 1:
        raise ValueError(f"--layer-decay must be within (0, 1], got {args.layer_decay}")
    if args.output.exists() and not args.output.is_dir():
        raise FileExistsError(f"--output {args.output} is a file; name a folder")
    if args.output.exists() and any(args.output.iterdir()) and not args.overwrite:
        raise FileExistsError(f"{args.output} is not empty: pass --overwrite or another --output")
    if args.mode == "lora":
        import_peft()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", type=Path, required=True, help="Folder of the training images, with one folder per class.")
    add("--test", type=Path, required=True, help="Folder of the test images, with one folder per class.")
    add("--output", type=Path, required=True, help="Folder for the result.")
    add("--overwrite", action="store_true", help="Write to OUTPUT even if it is not empty.")
    add("--model", default="stellar-tiny", help="Name, folder or Hub repository of the model. Default: %(default)s.")
    add("--mode", choices=sorted(LEARNING_RATES), default="full", help="Weights to train. Default: %(default)s.")
    add("--epochs", type=int, default=20, help="Number of passes over TRAIN. Default: %(default)s.")
    add(
        "--batch-size",
        type=int,
        default=64,
        help="Number of images per step, over all processes. Default: %(default)s.",
    )
    rates = ", ".join(f"{rate} for {mode}" for mode, rate in LEARNING_RATES.items())
    add("--learning-rate", type=float, help=f"Highest learning rate. Default: {rates}.")
    add("--weight-decay", type=float, default=0.05, help="Weight decay of AdamW. Default: %(default)s.")
    add(
        "--layer-decay",
        type=float,
        help="Factor of the learning rate from each block to the block below. Default: none.",
    )
    add("--lora-rank", type=int, default=8, help="Rank of the low-rank updates. Default: %(default)s.")
    add("--clip-norm", type=float, default=1.0, help="Largest norm of the gradient. Default: %(default)s.")
    add(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help='Precision of training. Default: "auto", which is bf16 on a GPU and fp32 on a CPU.',
    )
    workers = (
        "Number of worker processes that read images. Default: number of cores, at most 8. 0 reads in the main process."
    )
    add("--num-workers", type=int, help=workers)
    add("--seed", type=int, default=0, help="Seed of all random numbers. Default: %(default)s.")
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        hints = "".join(hint_of_new_name("options", name.partition("=")[0]) for name in unknown)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hints}")
    return args


def load(args: argparse.Namespace, num_classes: int) -> tuple[StellarImageProcessor, StellarClassifier]:
    """Loads the processor and the classifier with a new head, in float32 for any checkpoint."""
    if os.environ.get("RANK", "0") == "0":
        print(f"loading {args.model}", file=sys.stderr)
    disable_progress_bar()
    processor = StellarImageProcessor.from_pretrained(args.model)
    model = StellarModel.from_pretrained(args.model, decoder=False, dtype=torch.float32)
    return processor, build_classifier(model, num_classes, args.mode, args.lora_rank)


def prepare(
    accelerator: Accelerator,
    classifier: StellarClassifier,
    datasets: Sequence[ClassFolderDataset],
    args: argparse.Namespace,
) -> tuple[Any, ...]:
    """Returns classifier, optimizer and the loaders of both data sets, prepared by accelerate."""
    optimizer = create_optimizer_v2(
        classifier,
        opt="adamw",
        lr=args.learning_rate or LEARNING_RATES[args.mode],
        weight_decay=args.weight_decay,
        layer_decay=args.layer_decay,
    )
    given, processes = args.num_workers, accelerator.num_processes
    num_workers = default_num_workers(processes) if given is None else given
    options: dict[str, Any] = {
        "batch_size": args.batch_size,
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "timeout": MAX_WAIT if num_workers else 0,
        "pin_memory": accelerator.device.type == "cuda",
    }
    loaders = [DataLoader(dataset, shuffle=not index, **options) for index, dataset in enumerate(datasets)]
    return accelerator.prepare(classifier, optimizer, *loaders)


def table(rows: dict[str, int], total: int) -> str:
    """Returns a table with name, share and number of correct images per row."""
    width = max(map(len, rows)) + 2
    lines = [f"{'':{width}}{'test accuracy':>15}{'right':>16}"]
    lines += [f"{name:{width}}{right / total:>15.1%}{f'{right} of {total}':>16}" for name, right in rows.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    args = parse_arguments(arguments)
    try:
        check_arguments(args)
        training = ClassFolders.read(args.train)
        test = ClassFolders.read(args.test, training.classes)
        accelerator = make_accelerator(args.precision, args.batch_size, args.seed)
        processor, classifier = load(args, len(training.classes))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {one_line(error, 2000)}")
    datasets = (augmented_images(training, processor), prepared_images(test, processor))
    prepared, optimizer, loader, test_loader = prepare(accelerator, classifier, datasets, args)
    train(accelerator, prepared, optimizer, loader, args)
    right, in_majority, readable = count_right(accelerator, prepared, test_loader, training.majority())
    if not readable:
        sys.exit(f"error: none of the images in {args.test} can be read")
    if accelerator.is_main_process:
        save_classifier(classifier, processor, training.classes, right / readable, args.output)
        rows = {f"{args.model}, {args.mode}": right, "majority class": in_majority}
        left_out = len(test.paths) - readable
        note = f"{left_out} of the images in {args.test} could not be read and count nowhere\n\n" if left_out else ""
        print(f"\n{table(rows, readable)}\n\n{note}wrote {args.output}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
