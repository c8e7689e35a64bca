"""Make stellar-tiny: a small STELLAR autoencoder trained on free photographs and drawn scenes, on a CPU.

    python examples/train_stellar_tiny.py --output outputs/stellar-tiny

The objective is reconstruction through the low-rank bottleneck (mean squared error, weight 10) and KoLeo (weight 0.1).
The photographs of `examples/images` are never trained on; `benchmarks/reconstruct_unseen_photographs.py` measures on
them. All draws follow `--seed`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from stellar_hub.modeling.factorization import low_rank_product
from stellar_hub.modeling.image_loading import load_rgb
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from tqdm import trange

from stellar_hub import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.data.scenes import draw_scene
from stellar_hub.training.objectives import koleo_loss

PHOTOGRAPHS = Path(__file__).parent / "training_photographs"
IMAGE_SIZE = 64
RECONSTRUCTION_WEIGHT = 10.0
KOLEO_WEIGHT = 0.1
SCENE_SHARE = 0.25

CONFIG = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "num_sparse_tokens": 16,
    "decoder_hidden_size": 160,
    "decoder_num_hidden_layers": 4,
    "decoder_num_attention_heads": 5,
    "reconstruction_head": "pixel",
    "use_tokenizer": False,
    "num_prototypes": 256,
}


def random_photograph_crop(photographs: list[Tensor], rng: np.random.Generator) -> Tensor:
    """A random crop (5 to 100 % of the area, mostly large), perhaps mirrored, `(3, 64, 64)` uint8."""
    photograph = photographs[rng.integers(len(photographs))]
    height, width = photograph.shape[1:]
    area = height * width * rng.uniform(0.05, 1.0)
    ratio = np.exp(rng.uniform(-0.3, 0.3))
    crop_height = min(height, max(IMAGE_SIZE // 2, round(float(np.sqrt(area / ratio)))))
    crop_width = min(width, max(IMAGE_SIZE // 2, round(float(np.sqrt(area * ratio)))))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    crop = tvF.resized_crop(
        photograph,
        top,
        left,
        crop_height,
        crop_width,
        [IMAGE_SIZE, IMAGE_SIZE],
        interpolation=InterpolationMode.BICUBIC,
        antialias=True,
    )
    return crop.flip(2) if rng.random() < 0.5 else crop


def jitter(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A gain and an offset per image and channel: photographs under other light. `(B, 3, H, W)` in [0, 1]."""
    shape = (images.shape[0], 1, 1, 1)
    channel_shape = (images.shape[0], 3, 1, 1)
    gain = rng.uniform(0.7, 1.2, shape) * rng.uniform(0.9, 1.1, channel_shape)
    offset = rng.uniform(-0.1, 0.1, shape)
    return (images * torch.as_tensor(gain).float() + torch.as_tensor(offset).float()).clamp(0, 1)


def draw_batch(photographs: list[Tensor], batch_size: int, rng: np.random.Generator) -> Tensor:
    """Photograph crops and drawn scenes, `(B, 3, 64, 64)` in [0, 1]."""
    num_scenes = round(batch_size * SCENE_SHARE)
    images = [random_photograph_crop(photographs, rng) for _ in range(batch_size - num_scenes)]
    for _ in range(num_scenes):
        scene = draw_scene(int(rng.integers(2**31)), IMAGE_SIZE)
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
    return jitter(torch.stack(images).float() / 255, rng)


def losses(model: StellarModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of the unclamped reconstruction, and KoLeo of the tokens, both unweighted."""
    semantics, localization = model.encode(images)
    grid_size = model.grid_size(*images.shape[-2:])
    hidden_states = model.decoder(low_rank_product(localization, semantics), grid_size)
    prediction = model.decoder.predict(hidden_states, grid_size)
    return F.mse_loss(prediction.float(), images), koleo_loss(semantics)


def train(args: argparse.Namespace) -> tuple[StellarModel, dict[str, float]]:
    """The whole run."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    photographs = [load_rgb(path) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    model = StellarModel(StellarConfig(**CONFIG)).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=args.learning_rate, weight_decay=0.05, betas=(0.9, 0.95))
    schedule = CosineLRScheduler(
        optimizer, t_initial=args.steps, warmup_t=args.steps // 20, warmup_lr_init=1e-6, warmup_prefix=True
    )
    started, smoothed = time.monotonic(), 0.0
    progress = trange(args.steps, desc="stellar-tiny", mininterval=5)
    for step in progress:
        schedule.step(step)
        images = draw_batch(photographs, args.batch_size, rng)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            error, koleo = losses(model, images)
        loss = RECONSTRUCTION_WEIGHT * error + KOLEO_WEIGHT * koleo
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()} at step {step}: lower --learning-rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smoothed = error.item() if step == 0 else 0.98 * smoothed + 0.02 * error.item()
        if (step + 1) % args.save_every == 0:
            save(model, {"steps": step + 1, "of": args.steps}, args.output)
        progress.set_postfix_str(f"PSNR {-10 * np.log10(smoothed):.2f} dB, koleo {koleo.item():.3f}", refresh=False)
    facts = {
        "steps": args.steps,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
        "bf16": args.bf16,
        "photographs": len(photographs),
        "scene_share": SCENE_SHARE,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "training_psnr": round(-10 * float(np.log10(smoothed)), 2),
    }
    return model.eval(), facts


def save(model: StellarModel, facts: dict[str, float], output: Path) -> None:
    """Weights in float16 (the position code's frequencies excepted), configuration, processor, facts of the run.

    `golden.safetensors` records what the saved weights compute for one image; `stellar-hub doctor` compares with it.
    """
    weights = {
        name: tensor if "position_code" in name else tensor.half() for name, tensor in model.state_dict().items()
    }
    model.save_pretrained(output, state_dict=weights)
    StellarImageProcessor.from_config(model.config).save_pretrained(output)
    side = model.config.image_size
    pixel_values = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        encoding = StellarModel.from_pretrained(output).encode(pixel_values)
    save_file({"pixel_values": pixel_values, **encoding._asdict()}, output / "golden.safetensors")
    # The package that ships this checkpoint has the code; copies beside the weights would only go stale.
    for copied in output.glob("*.py"):
        copied.unlink()
    for name in ("config.json", "preprocessor_config.json"):
        content = json.loads((output / name).read_text())
        content.pop("auto_map", None)
        (output / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    (output / "training.json").write_text(json.dumps(facts, indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=3500, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images per step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (default: %(default)s)")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast, faster where the CPU has it")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints (default: %(default)s)")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    model, facts = train(args)
    save(model, facts, args.output)
    print(f"wrote {args.output}: {json.dumps(facts)}")


if __name__ == "__main__":
    main()
