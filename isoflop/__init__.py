"""From a config file to a scaling law with honest error bars: the command line, the report page, and `isoflop.sweep`.

`isoflop.sweep` imports JAX when it is first used, so that the command line starts without it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"module_sweep": ["sweep"]})
