"""What objectives over a stream of text share: its windows, the fixed sample that is evaluated, entries of the record."""

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer
from ml_collections import ConfigDict

from lm import tokens
from lm.token_windows import segments
from training.task import Arrays, Model
from training.types import Record


def available(config: ConfigDict) -> int | None:
    """Windows in the training split, None for a synthetic language; prepares the corpus where it is not there."""
    return _windows(tokens.prepare(config.data).split("train"), config)


def _windows(split: Any, config: ConfigDict) -> int | None:
    return None if split.num_tokens is None else split.num_windows(config.data.seq_len)


def document_masking(data: ConfigDict) -> bool:
    """Whether attention stops at the ends of documents: as configured, else for every tokenizer but bytes."""
    return data.tokenizer != "bytes" if data.document_masking is None else data.document_masking


class StreamTask(abc.ABC):
    """One resolved run on windows of running text.

    Attributes:
      seed: of the order of the training windows. The store's own seed splits and shuffles documents; the run's seed draws
        the order of batches too, so that runs which differ in it alone measure the noise of everything random in a run.
      end: the end-of-document symbol where documents in a window are kept apart, else None.
    """

    model: Model

    def __init__(self, config: ConfigDict):
        self.config = config
        self.seed = (config.seed << 32) + config.data.seed
        self.text = tokens.prepare(config.data)
        self.train, self.eval = self.text.split("train"), self.text.split("eval")
        self.train.need(config.batch_size, config.data.seq_len)
        self.sample = self.eval.eval_sample(config.evaluation.tokens, config.data.seq_len)
        self.end = self.text.end if document_masking(config.data) else None

    def hyper(self) -> dict[str, float]:
        """Scalars of the model that never recompile it."""
        return {name: float(self.config.model[name]) for name in ("dropout", "init_scale", "z_loss")}

    def eval_batches(self, final: bool = True) -> Iterator[Arrays]:
        """The windows of the one fixed sample in order; the last batch is filled up with the first window."""
        del final
        size, length = self.config.evaluation.batch_size, self.config.data.seq_len
        for start in range(0, len(self.sample), size):
            part = self.sample[start : start + size]
            padded = np.concatenate([part, np.repeat(self.sample[:1], size - len(part))])
            yield self.shown(padded, self.eval.windows(padded, length))

    @abc.abstractmethod
    def shown(self, numbers: Int[np.ndarray, " rows"], windows: Integer[np.ndarray, "rows length+1"]) -> Arrays:
        """What the model is shown of windows of the evaluation split."""

    def facts(self) -> Record:
        """Record entries of the corpus, the tokenizer and the attention chosen."""
        config, network = self.config, getattr(self.model, "network", None)
        choice, windows = getattr(network, "attention_choice", None), _windows(self.train, config)
        return {
            **self.text.facts(),
            "seq_len": config.data.seq_len,
            "available_tokens": None if windows is None else windows * config.data.seq_len,
            "document_masking": self.end is not None,
            **({} if choice is None else {"attention": f"{choice.name} ({choice.reason})"}),
        }

    def keep(self, folder: Path) -> None:
        """Write the tokenizer."""
        tokens.keep(self.text, folder)

    def documents(self, places: Int[np.ndarray, "sample tokens"]) -> Int[np.ndarray, "sample tokens"]:
        """The documents of tokens of the sample, by their places in the windows."""
        ids = self.eval.document_ids(self.sample, self.config.data.seq_len)
        # They are those of a window's last tokens: of token i stands at i - 1, and none for the first.
        return np.take_along_axis(ids, np.maximum(places - 1, 0), axis=1)

    def apart(self, read: Integer[np.ndarray, "rows length"]) -> Arrays:
        """The documents of the tokens that are read, where they are kept apart."""
        return {} if self.end is None else {"segments": segments(read, self.end)[0]}
