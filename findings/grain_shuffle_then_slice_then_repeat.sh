#!/usr/bin/env bash
# Library: grain 0.2.18.
# Expected: a shuffled dataset, split by slices into 90% for training and 10% for validation, has no example in both, however
# often the training part is repeated.
# Seen: repeat shuffles anew for each epoch, and the slice is taken after the shuffle: from the second epoch on the training
# part holds the validation examples (9 of 10 in epoch two). Two workers that shard by slices of a shuffled dataset see
# examples twice and miss others in the same way.
# Way round: slice first, then shuffle, or repeat(..., reseed_each_epoch=False).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  grain==0.2.18 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -I - <<'PYTHON'
import sys
from importlib.metadata import version

import grain

examples = grain.MapDataset.range(100)


def shared_by_epoch(training, validation, epochs=3):
    held_out, size = {int(x) for x in validation}, len(training)
    seen = [int(x) for x in training.repeat(epochs)]
    return [len(held_out & set(seen[epoch * size : (epoch + 1) * size])) for epoch in range(epochs)]


shuffled = examples.shuffle(seed=0)
late = shared_by_epoch(shuffled[:90], shuffled[90:])
early = shared_by_epoch(examples[:90].shuffle(seed=0), examples[90:])
print("grain", version("grain"), "validation examples (of 10) among those trained on, in epochs 1, 2 and 3")
print("shuffle, slice, repeat: expected [0, 0, 0], seen", late)
print("slice, shuffle, repeat: seen", early)
described = late[0] == 0 and min(late[1:]) >= 5 and early == [0, 0, 0]
print("as described" if described else "the behaviour has changed")
sys.exit(0 if described else 1)
PYTHON
