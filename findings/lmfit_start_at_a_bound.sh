#!/usr/bin/env bash
# Library: lmfit 1.3.4 (scipy 1.17.1).
# Expected: L(N) = E + A / N^a with E >= 0, started at E = 0 (no irreducible loss), converges as it does from E = 0.5, as
# scipy by itself does with the same bounds and the same start.
# Seen: bounds are kept by a change of variable whose slope is 0 at the bound. From E = 0 the methods lbfgsb and nelder never
# leave it: they report success with a = 0.09 in place of 0.34 and a sum of squares 330 times larger. Only the default,
# leastsq, gets away.
# Way round: start inside the bounds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  lmfit==1.3.4 scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -I - <<'PYTHON'
import sys

import lmfit
import numpy as np
from scipy.optimize import minimize

sizes = np.logspace(7, 10, 20)
losses = (1.7 + 400 * sizes**-0.34) * np.exp(np.random.default_rng(0).normal(0, 0.003, 20))


def law(N, E, logA, a):
    return E + np.exp(logA - a * np.log(N))


model = lmfit.Model(law, independent_vars=["N"])


def fitted(start, method):
    params = model.make_params(E={"value": start, "min": 0}, logA=5, a=0.3)
    fit = model.fit(losses, params, N=sizes, method=method)
    return bool(fit.success), float(fit.params["E"].value), float(fit.params["a"].value), float(fit.chisqr)


bounds = [(0, None), (None, None), (None, None)]
alone = minimize(lambda p: np.sum((law(sizes, *p) - losses) ** 2), [0, 5, 0.3], method="L-BFGS-B", bounds=bounds)
print(f"lmfit {lmfit.__version__}, E and a of a power law with E >= 0; true values 1.7 and 0.34")
found = {}
for method in ("leastsq", "lbfgsb", "nelder"):
    for start in (0.5, 0.0):
        success, E, a, squares = found[method, start] = fitted(start, method)
        print(f"{method}, started at E = {start}: success {success}, E {E:.3f}, a {a:.3f}, sum of squares {squares:.2e}")
print(f"scipy alone, from E = 0 with bounds: E {alone.x[0]:.3f}, a {alone.x[2]:.3f}, sum of squares {alone.fun:.2e}")
best = found["leastsq", 0.5][3]
stuck = [found[method, 0.0] for method in ("lbfgsb", "nelder")]
described = all(success and E < 0.01 and squares > 100 * best for success, E, _, squares in stuck)
described = described and all(found[method, 0.5][3] < 1.1 * best for method in ("lbfgsb", "nelder"))
described = described and found["leastsq", 0.0][3] < 1.1 * best and alone.fun < 2 * best
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
