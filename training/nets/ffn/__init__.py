"""Feed-forward parts of a block by name."""

from training.nets.ffn import mlp, moe
from training.nets.ffn.feed_forward import FeedForward

FEED_FORWARDS: dict[str, FeedForward] = {"mlp": mlp.FEED_FORWARD, "moe": moe.FEED_FORWARD}
