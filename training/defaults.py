"""The keys of a config that belong to the engine, with their defaults; a family adds sections of its own."""

from collections.abc import Mapping

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# Keys and sections that had another name; a config that has one is refused, and told the new name.
RENAMED = {
    "accumulate": "gradient_accumulation_steps",
    "horizon": "duration",
    "rules": "recipe.name",
    "hparam_scaling": "recipe.name",
    "optimizer.peak_lr": "optimizer.learning_rate",
    "optimizer.decay_roles": "optimizer.weight_decay_roles",
    "optimizer.lr_factors": "optimizer.lr_multipliers",
    "start": "init_from",
    "start.fresh": "init_from.reinit",
    "server": "async_sgd",
    "stopping": "early_stopping",
}


def renamed(key: str, table: Mapping[str, str] = RENAMED) -> str | None:
    """What a dotted key that had another name, by this table, is called now; None where it had none."""
    sections = key.split(".")
    for count in range(len(sections), 0, -1):
        if new := table.get(".".join(sections[:count])):
            return ".".join([new, *sections[count:]])
    return None


def defaults() -> ConfigDict:
    """The engine's sections with their defaults; None means: derived, or the named thing's own default."""
    return ConfigDict(
        {
            "task": "lm",
            "seed": 0,
            "batch_size": placeholder(int),  # examples a step
            # Micro-batches a step: each has draws, and statistics of batch norm, of its own.
            "gradient_accumulation_steps": 1,
            "steps_per_call": 1,  # optimizer steps in one jitted call: fewer dispatches for tiny models
            "compiler_options": "tuned",  # or "default": see training.compiler_options
            "deterministic": False,  # on GPUs: only operations whose result repeats bit for bit, as on CPUs they all do
            # Exactly one; flops are exact training FLOPs (products, full attention).
            "duration": {
                "steps": placeholder(int),
                "tokens": placeholder(float),
                "examples": placeholder(float),
                "epochs": placeholder(float),
                "flops": placeholder(float),
                "tokens_per_param": placeholder(float),
            },
            # Learning rate, batch size, warmup, and what else the recipe says of a size and a duration, where the config
            # does not. Multipliers of a parametrization are 1 at the reference; None: the recipe's own.
            "recipe": {
                "name": "default",
                "reference": {
                    "width": placeholder(int),
                    "depth": placeholder(int),
                    "mlp_width": placeholder(int),  # None: as many times the width as the model's
                    "head_width": placeholder(int),  # None: the model's
                    "learning_rate": placeholder(float),  # None: that of the recipe `default` at the reference
                    "batch_size": placeholder(float),  # tokens a step
                    "tokens": placeholder(float),
                },
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": placeholder(float),
                "weight_decay": placeholder(float),
                "weight_decay_roles": ("matrix", "embedding"),
                "cautious_weight_decay": False,  # only entries that the update moves towards zero decay
                "l1": 0.0,  # penalties l1 |p| + l2 p^2 / 2 on the same roles, which enter the gradient
                "l2": 0.0,
                "clip": 1.0,  # global norm; 0: off
                "qk_clip": 0.0,  # largest attention logit beyond which a head is scaled down (Kimi K2: 100); 0: off
                "ema": 0.0,  # decay of a running mean of the parameters, which is then evaluated; 0: off
                "b1": placeholder(float),
                "b2": placeholder(float),
                "b3": placeholder(float),
                "alpha": placeholder(float),  # weight of the slow mean that keeps a share b3 of itself
                "slow_warmup": placeholder(float),  # share of the run over which alpha and b3 grow to what they are
                "eps": placeholder(float),
                "momentum": placeholder(float),
                "decay_rate": placeholder(float),
                "precondition_every": placeholder(int),  # steps between the preconditioner's eigenbases
                # (pattern of a parameter's path, factor of its learning rate or one a layer), ...: 0 freezes
                "lr_multipliers": (),
            },
            "schedule": {
                "name": "cosine",
                "warmup_steps": placeholder(int),
                "warmup_tokens": placeholder(float),
                "warmup_fraction": placeholder(float),
                "final_fraction": placeholder(float),
                "decay_fraction": placeholder(float),
                "boundaries": placeholder(tuple),
                "factor": placeholder(float),
            },
            # Begin with the parameters of another run, or of the one run of a sweep directory that has this model; those
            # whose path matches a pattern of `reinit` are drawn anew.
            "init_from": {"run": "", "step": placeholder(int), "reinit": ()},
            # Begin with the whole state of another run at a step up to which both make the same steps: see training.fork.
            "fork_from": {"run": "", "step": placeholder(int)},
            # Learn from what another run's model says beside the data: `weight` is its share of the loss.
            "teacher": {"run": "", "step": placeholder(int), "weight": 1.0, "temperature": 1.0},
            "precision": {"params": "float32", "compute": "float32", "logits": "float32", "matmul": "default"},
            # Weights cut by magnitude: the share of those roles that is zero in the end, or `pattern` n:m, from `begin` to
            # `end` of the duration (equal: at once), anew after so many steps.
            "prune": {
                "sparsity": 0.0,
                "pattern": "",
                "scope": "global",
                "begin": 0.25,
                "end": 0.75,
                "every": 10,
                "roles": ("matrix",),
            },
            # Formats such as int4 or fp8 in training ("": none), and those that the trained weights are also evaluated in.
            "quantize": {"weights": "", "activations": "", "post": (), "roles": ("matrix",)},
            # Low-rank factors beside what another run has learnt, which then stands still: their rank (0: none), the scale
            # alpha / rank of what they add, and patterns of the paths of the matrices that have them.
            "lora": {"rank": 0, "alpha": 16.0, "targets": (".*/kernel",)},
            # M replicas that train apart on shares of every batch, and synchronise after every H steps.
            "replicas": {
                "count": 1,
                "every": 1,
                "outer": {"name": "average", "lr": placeholder(float), "momentum": placeholder(float)},
            },
            # Steps whose loss or gradient norm is so many deviations above those of the last `window` steps change nothing;
            # 0: off. With `rollback` the run goes back to its last checkpoint and leaves out so many batches.
            "spike_guard": {"sigmas": 0.0, "window": 128, "rollback": 0, "max_rollbacks": 4},
            # Workers of a parameter server, whose gradients are those of parameters fetched earlier.
            "async_sgd": {"workers": 1, "order": "round_robin"},
            "mesh": {
                "replica": 1,
                "data": -1,
                "stage": 1,  # splits the blocks, see training.nets.pipeline
                "fsdp": 1,
                "expert": 1,
                "context": 1,  # splits sequences; attention gathers keys and values
                "tensor": 1,
                "dcn_axis": placeholder(str),  # lies over the network between slices or nodes; None: see training.mesh
                "allow_replicated": False,  # parameters that mesh.fsdp does not divide, beyond 2% of all
            },
            "checkpoint": {
                "every_steps": 0,
                "every_minutes": 5.0,
                "keep_last": 2,  # one to go on from where the newest is damaged
                "keep_best": 0,
                "keep_every": 0,
                "at_steps": (),  # also saved at these steps, and kept: cooldowns are forked from there
                "final": True,
            },
            "log": {
                "every": 10,
                "evaluate_every": 0,
                "statistics": 0,  # norms and attention logits by layer, every so many steps (0: never)
                "gradient_noise": 0,  # steps that the running means of the gradient noise scale span (0: none)
            },
            # Early stopping: after so many evaluations in a row without a better `metric` (0: off) the run ends, with the
            # parameters of the best one; checkpoint.keep_best goes by the same metric.
            "early_stopping": {"metric": "loss", "patience": 0},
        }
    )
