"""Settings that every test shares: eight devices on the CPU, golden tables, a family of its own for the engine."""

import gc
import os
from pathlib import Path

import compiler_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if compiler_flags.DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = compiler_flags.EIGHT_DEVICES
os.environ.setdefault("ISOFLOP_CACHE", str(Path(__file__).parents[1] / "runs" / "cache"))

import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Types and shapes, axes by name, are checked at every call in what is traced; arrays of the host pass. Not in all modules:
# to decorate functions inside functions and to walk large trees takes six times as long as the trace alone.
CHECKED = ("training.nets.stack", "training.nets.attention", "training.nets.ffn.moe", "training.step")
CHECKED += ("training.optimizer", "lm.loss", "lm.decoder")
jaxtyping.Array = jax.Array | np.ndarray | np.generic
jaxtyping.install_import_hook(CHECKED, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
from training import compilation

jax.devices()  # eight of them, before a test sets other flags for processes of its own
compilation.persist()  # workers share what they compile, and so do later runs
gc.freeze()
gc.set_threshold(50_000, 20, 20)  # tracing makes many objects that stay: to look among them took an eighth of the time
settings.register_profile("isoflop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("isoflop")


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of golden tables; tests that need it are skipped where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data" / "published"
    folder = Path(os.environ.get("ISOFLOP_PUBLISHED", default))
    if not folder.is_dir():
        pytest.skip(f"golden tables are absent: {folder} (ISOFLOP_PUBLISHED)")
    return folder


@pytest.fixture
def cache(tmp_path_factory):
    """An empty cache of compiled programs, for tests of who compiles."""
    before, folder = jax.config.jax_compilation_cache_dir, tmp_path_factory.mktemp("compiled")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    yield folder
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def toy():
    """The regression family, installed."""
    import toy as family

    family.install()
    return family
