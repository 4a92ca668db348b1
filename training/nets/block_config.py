"""What a transformer stack is made of: one frozen configuration, composed into every model that has blocks."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """Mixture of experts in place of a block's MLP (`training.nets.ffn.moe`).

    Attributes:
      experts: routed experts, each an MLP of `BlockConfig.mlp_width` hidden features.
      experts_per_token: routed experts that a token goes through.
      shared_experts: experts that every token goes through.
      capacity_factor: in training, how many times its even share of an example's tokens an expert takes; 0: no limit.
      norm_topk_prob: whether the weights of a token's experts are divided by their sum (Jiang et al. 2024, Mixtral).
      dispatch: name in `training.nets.ffn.moe.DISPATCHES`; changes speed only.
      dense_layers: blocks before the first with experts, which have an MLP instead.
    """

    experts: int
    experts_per_token: int = 1
    shared_experts: int = 0
    capacity_factor: float = 0.0
    norm_topk_prob: bool = True
    dispatch: str = "auto"
    dense_layers: int = 0


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Shape and kind of the blocks of one stack; hashable.

    Attributes:
      depth: blocks.
      width: features of the residual stream.
      heads: query heads; they divide the width.
      kv_heads: key and value heads; they divide the query heads.
      mlp_width: hidden features of each block's MLP, or of each expert.
      norm: name in `training.nets.layers.NORMS`.
      norm_eps: added to a norm's variance.
      activation: name in `training.nets.layers.ACTIVATIONS`.
      bias: whether projections and layer norms have biases.
      qk_norm: whether each head's queries and keys are RMS-normalised (Dehghani et al. 2023).
      parallel_block: whether mixer and feed-forward read one norm and are added together (Wang and Komatsuzaki 2021).
      norm_position: "pre" (a branch reads the norm of the stream) or "post" (the stream is the norm of its sum with a
        branch, as in Vaswani et al. 2017).
      cross_attention: whether each block also attends to a memory.
      pattern: names in `training.nets.mixers.MIXERS`; block i has the sequence mixer `pattern[i % len(pattern)]`.
      moe: the mixture of experts in place of MLPs; None: there is none.
      mixer_options: options of the pattern's mixers by name, as a mapping or as pairs; what is not given has the mixer's
        own default.
      residual_multiplier: of what a branch adds to the stream, under a parametrization.
      query_multiplier: of the queries of attention, which has them times the keys / sqrt(head width), likewise.
      attention: name in `training.nets.attention.IMPLEMENTATIONS`; changes speed only.
      scan: one compiled repetition of the pattern in a loop, instead of a copy of every block.
      remat: name in `training.nets.stack.REMAT`: what the backward pass computes again.
      pipeline_rounds: how often a microbatch passes all stages of the mesh axis "stage".
      pipeline_microbatches: that a batch is cut into for them; 0: see `training.nets.pipeline.schedule`.
    """

    depth: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    norm: str = "rms"
    norm_eps: float = 1e-5
    activation: str = "gelu"
    bias: bool = False
    qk_norm: bool = False
    parallel_block: bool = False
    norm_position: str = "pre"
    cross_attention: bool = False
    pattern: tuple[str, ...] = ("attention",)
    moe: MoEConfig | None = None
    mixer_options: Mapping[str, int] | Iterable[tuple[str, int]] = ()
    residual_multiplier: float = 1.0
    query_multiplier: float = 1.0
    attention: str = "auto"
    scan: bool = False
    remat: str = "none"
    pipeline_rounds: int = 1
    pipeline_microbatches: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", tuple(self.pattern))
        object.__setattr__(self, "mixer_options", tuple(sorted(dict(self.mixer_options).items())))

    @property
    def head_width(self) -> int:
        """Features of an attention head."""
        return self.width // self.heads

    @property
    def kept_features(self) -> int:
        """Features of a token that all blocks keep for the backward pass where they compute all others again; else 0."""
        return self.depth * self.width if self.remat == "full" else 0

    @property
    def residual_scale(self) -> float:
        """Factor of the initial values of kernels that write to the residual stream: after pre-norms, where the stream grows
        with the depth, one over the root of how many write (Radford et al. 2019)."""
        writers = (3 if self.cross_attention else 2) * self.depth
        return writers**-0.5 if self.norm_position == "pre" else 1.0

    def options(self, defaults: Mapping[str, int]) -> dict[str, int]:
        """A mixer's options: those given, else its defaults."""
        given = dict(self.mixer_options)
        return {name: given.get(name, default) for name, default in defaults.items()}


def replace(blocks: BlockConfig, **changes: Any) -> BlockConfig:
    """A copy with changed fields; those of `MoEConfig` are fields of `blocks.moe`, other unknown ones options of mixers."""
    fields = {field.name for field in dataclasses.fields(BlockConfig)}
    experts = {field.name for field in dataclasses.fields(MoEConfig)}
    own = {key: value for key, value in changes.items() if key in fields}
    moe = {key: value for key, value in changes.items() if key in experts}
    options = {key: value for key, value in changes.items() if key not in fields | experts}
    if moe:
        own["moe"] = MoEConfig(**moe) if blocks.moe is None else dataclasses.replace(blocks.moe, **moe)
    if options:
        own["mixer_options"] = tuple((dict(blocks.mixer_options) | options).items())
    return dataclasses.replace(blocks, **own)


def clone(model: Any, **changes: Any) -> Any:
    """A copy of a module that has `blocks`, with changed fields of its own, of its blocks or of their experts."""
    own = {field.name for field in dataclasses.fields(model)}
    deeper = {key: value for key, value in changes.items() if key not in own}
    changes = {key: value for key, value in changes.items() if key in own}
    return model.clone(blocks=replace(changes.pop("blocks", model.blocks), **deeper), **changes)


def field(model: Any, name: str, default: Any = None) -> Any:
    """A field of a module that has `blocks`: its own, that of its blocks or that of their experts; else the default."""
    for part in (model, model.blocks, model.blocks.moe):
        if part is not None and hasattr(part, name):
            return getattr(part, name)
    return default


def compose(module: Any, **options: Any) -> Any:
    """A module that has `blocks`, of options: its own fields, those of `BlockConfig` and `MoEConfig`, and of mixers."""
    own = {key: value for key, value in options.items() if key in module.__dataclass_fields__}
    return module(blocks=blocks_of({key: value for key, value in options.items() if key not in own}), **own)


def blocks_of(options: Mapping[str, Any]) -> BlockConfig:
    """Blocks of options by name: fields of `BlockConfig`, where `experts` is one of `MoEConfig` too, others of mixers."""
    blocks, moe = ({item.name for item in dataclasses.fields(kind)} for kind in (BlockConfig, MoEConfig))
    own = {key: value for key, value in options.items() if key in blocks}
    own.setdefault("kv_heads", own["heads"])
    own["mixer_options"] = tuple((key, value) for key, value in options.items() if key not in blocks | moe)
    if "experts" in options:
        own["moe"] = MoEConfig(**{key: value for key, value in options.items() if key in moe})
    return BlockConfig(**own)
