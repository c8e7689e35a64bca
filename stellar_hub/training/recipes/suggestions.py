"""Keys of a recipe for what people write instead: names of other trainers, and slips of the pen."""

from collections.abc import Iterable

from stellar_hub.old_names import did_you_mean

# What other trainers and papers call the keys.
SYNONYMS = {
    **dict.fromkeys(("lr", "base_lr", "blr", "peak_lr", "max_lr", "eta"), "learning_rate"),
    **dict.fromkeys(("min_lr", "lr_min", "end_lr", "final_lr", "warmup_final_lr"), "final_learning_rate"),
    **dict.fromkeys(("wd", "decay", "l2"), "weight_decay"),
    **dict.fromkeys(("bs", "batch", "batchsize", "global_batch_size", "per_device_train_batch_size"), "batch_size"),
    **dict.fromkeys(("epoch", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs"), "epochs"),
    **dict.fromkeys(("step", "num_steps", "max_steps", "iters", "iterations", "max_iters"), "steps"),
    **dict.fromkeys(("warmup", "warmup_ratio", "warmup_steps", "warmup_epochs"), "warmup_fraction"),
    **dict.fromkeys(("accum", "grad_accum", "accum_iter", "accumulate_grad_batches"), "gradient_accumulation_steps"),
    **dict.fromkeys(("clip", "clip_grad", "grad_clip", "max_norm", "max_grad_norm"), "clip_norm"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("layer_wise_decay", "llrd", "lr_decay"), "layer_decay"),
    **dict.fromkeys(("workers", "n_workers", "dataloader_num_workers", "j"), "num_workers"),
    **dict.fromkeys(("size", "img_size", "input_size", "crop_size", "resolution", "global_size"), "image_size"),
    **dict.fromkeys(("global_crops", "num_global_crops", "n_global_crops", "num_crops"), "num_global_views"),
    **dict.fromkeys(("local_crops", "num_local_crops", "n_local_crops", "local_crops_number"), "num_local_views"),
    **dict.fromkeys(("global_scale", "global_crops_scale", "scale"), "global_area"),
    **dict.fromkeys(("local_scale", "local_crops_scale"), "local_area"),
    **dict.fromkeys(("hflip", "flip", "horizontal_flip"), "flip_probability"),
    **dict.fromkeys(("data", "data_path", "data_dir", "dataset", "path", "folder", "images", "source"), "sources"),
    **dict.fromkeys(("amp", "dtype", "mixed_precision", "fp16", "bf16"), "precision"),
    **dict.fromkeys(("grad_checkpointing", "checkpointing", "activation_checkpointing"), "gradient_checkpointing"),
    **dict.fromkeys(("random_seed", "manual_seed"), "seed"),
    **dict.fromkeys(("log_interval", "logging_steps", "log_freq", "print_freq"), "log_every"),
    **dict.fromkeys(("save_interval", "save_steps", "save_freq", "checkpoint_every"), "save_every"),
    **dict.fromkeys(("save_total_limit", "keep", "max_checkpoints"), "keep_checkpoints"),
    **dict.fromkeys(("logger", "loggers", "report_to", "tracker", "wandb", "tensorboard"), "trackers"),
    **dict.fromkeys(("hub_model_id", "repo_id", "push"), "push_to_hub"),
    **dict.fromkeys(("pretrained", "weights", "checkpoint", "backbone", "resume_from"), "init"),
    **dict.fromkeys(("dim", "embed_dim", "width"), "hidden_size"),
    **dict.fromkeys(("depth", "layers", "num_layers", "n_layers"), "num_hidden_layers"),
    **dict.fromkeys(("heads", "num_heads", "n_heads"), "num_attention_heads"),
    **dict.fromkeys(("tokens", "num_tokens", "n_tokens", "num_queries", "num_slots"), "num_sparse_tokens"),
    **dict.fromkeys(("prototypes", "n_prototypes", "num_clusters", "out_dim"), "num_prototypes"),
    **dict.fromkeys(("ema", "momentum", "ema_decay", "momentum_teacher", "teacher_ema"), "teacher_momentum"),
    **dict.fromkeys(("masking", "mask"), "mask_ratio"),
}


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'learning_rate'?" for a name that is spelled alike or used elsewhere for it, or ""."""
    known = list(known)
    usual = SYNONYMS.get(name.rpartition(".")[2].lower().replace("-", "_"))
    same = [key for key in known if usual is not None and key.rpartition(".")[2] == usual]
    return f"; did you mean {' or '.join(map(repr, same))}?" if same else did_you_mean(name, known)
