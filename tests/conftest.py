"""Settings that every test shares: eight devices on the CPU, golden tables, a family of its own for the engine."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Eight devices, and little of LLVM's time: tests compile more than they compute.
for flag in ("--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"):
    flags = os.environ.get("XLA_FLAGS", "")
    if flag.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
os.environ.setdefault("ISOFLOP_CACHE", str(Path(__file__).parents[1] / "runs" / "cache"))

import pytest
from hypothesis import HealthCheck, settings

from training import compilation

compilation.persist()  # workers share what they compile, and so do later runs
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
def toy():
    """The regression family, installed."""
    import toy as family

    family.install()
    return family
