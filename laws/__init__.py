"""From tables of runs to scaling laws: ``laws.load(table).fit("chinchilla")``.

Nothing heavy is imported until it is used, so ``import laws`` starts no JAX device.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
