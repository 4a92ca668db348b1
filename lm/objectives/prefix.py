"""The prefix task on running text: half of a window is read, the other half predicted (Raffel et al. 2019, 3.2.1)."""

from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from lm import models
from lm.loss import by_document
from lm.objectives.pairs import PairModel, network, scalars, unsegmented
from lm.objectives.stream import StreamTask, available
from training.cost import Cost
from training.errors import BadInput
from training.task import Arrays
from training.types import Outputs

__all__ = ["PrefixTask", "available", "build", "cost", "network"]

METRICS = ("loss", "loss_sem", "bits_per_byte")


def cost(config: ConfigDict) -> Cost:
    """Parameters and FLOPs of a window."""
    half = _half(config)
    return models.cost(config.model.name, network(config), half, config.data.seq_len - half)


def build(config: ConfigDict) -> "PrefixTask":
    """The task of a resolved config."""
    return PrefixTask(config)


def _half(config: ConfigDict) -> int:
    """Tokens of a window that the encoder reads.

    Raises:
      BadInput: a window has no half.
    """
    if config.data.seq_len < 2:
        raise BadInput(f"data.seq_len: a window of {config.data.seq_len} has no half to be read")
    unsegmented(config)
    return config.data.seq_len // 2


class PrefixTask(StreamTask):
    """One resolved run of the prefix task; documents in a window are not kept apart."""

    model: PairModel

    def __init__(self, config: ConfigDict):
        super().__init__(config)
        self._half, self.end = _half(config), None
        self.model = PairModel(network(config), self.text.end, config.model.label_smoothing > 0, writes=False)

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it."""
        return scalars(self.config)

    def batch(self, k: int, rows: slice) -> Arrays:
        """Rows of global batch k of the training windows."""
        return self._arrays(self.train.batch(self.seed, k, self.config.batch_size, self.config.data.seq_len, rows))

    def shown(self, numbers: np.ndarray, windows: np.ndarray) -> Arrays:
        """Whole windows, cut in two."""
        del numbers
        return self._arrays(windows)

    def summarize(self, outputs: Iterable[Outputs], final: bool = True) -> dict[str, float | int | str | None]:
        """Token-weighted loss in nats, its standard error by document, and bits per byte of the predicted text."""
        del final
        length = self.config.data.seq_len
        nats = np.concatenate([np.asarray(part["nats"], np.float64) for part in outputs])[: len(self.sample)]
        raw = self.text.token_bytes[self.eval.windows(self.sample, length)[:, self._half : -1]].sum()
        return {
            **by_document(nats, self.eval.document_ids(self.sample, length)[:, self._half - 1 : -1]),
            "bits_per_byte": float(nats.sum() / np.log(2) / (int(raw) * self.eval.byte_ratio)) if raw else None,
            "eval_set": self.eval.name,
        }

    def _arrays(self, windows: np.ndarray) -> Arrays:
        source, predicted = np.split(windows[:, :-1], [self._half], axis=1)
        begin = np.full_like(predicted[:, :1], self.text.end)
        return {"source": source, "read": np.concatenate([begin, predicted[:, :-1]], axis=1), "predicted": predicted}
