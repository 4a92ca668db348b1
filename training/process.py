"""Settings of a process that trains, made once, before its first step."""

import gc

import jax

from training import allocator, compilation
from training.cores import usable_cores


def configure_process() -> None:
    """Set up this process for training; call it once everything that it needs is imported.

    - The allocator keeps freed memory (`training.allocator`).
    - Compiled programs are kept on disk (`training.compilation`).
    - On one core a step is called only once the one before has ended: called ahead, it would not begin sooner, and a
      second set of temporaries would slow both.
    - What has been imported is left out of garbage collections (`gc.freeze`): it stays for good, and a full collection that
      walks over it takes 0.06 s (`gc.collect()` after `import sweeps.worker`, one core of two).
    """
    allocator.keep_freed_memory()
    compilation.persist()
    if len(usable_cores()) == 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    gc.freeze()
    gc.enable()
