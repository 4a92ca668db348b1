"""Settings that every test shares: eight devices on the CPU, golden tables, a family of its own for the engine."""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "host_platform_device_count" not in flags:
    flags += " --xla_force_host_platform_device_count=8"
# Most of the time would go into optimising what runs once; not so of fits, for which the Makefile gives another level.
# XLA's older emitter of loops, in one piece, compiles in a quarter of the time; at another level it is the default one.
if "backend_optimization_level" not in flags:
    flags += " --xla_backend_optimization_level=0"
    flags += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = flags.strip()
os.environ.setdefault("ISOFLOP_CACHE", str(Path(__file__).parents[1] / "runs" / "cache"))

import jax
import pytest
from hypothesis import HealthCheck, settings

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
