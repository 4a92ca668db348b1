"""The token store: every document once, in one split; batches that only (seed, k) decide; nothing lost to a kill."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lm import packing, store, tokenizer, tokens
from lm.store import open_store
from lm.token_windows import segments
from training import cache
from training.errors import BadInput

ROOT = Path(__file__).parents[2]
TEXTS = [f"{i}: " + " ".join(f"word{(i * j) % 97}" for j in range(i % 23 + 1)) for i in range(300)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def section(cache: Path, paths: str, **keys):
    data = tokens.defaults()
    data.update({"corpus": "files", "cache_dir": str(cache), "eval_fraction": 0.2, "seq_len": 16, **keys})
    data.corpus_args.paths = paths
    return data.lock()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of bytes in many small shards, for tests that only read it."""
    folder = tmp_path_factory.mktemp("store")
    return tokens.prepare(section(folder, write(folder / "texts.jsonl", TEXTS), shard_tokens=2000))


@pytest.fixture
def fresh(tmp_path):
    """The section of a store that is not there yet."""
    return section(tmp_path / "cache", write(tmp_path / "texts.jsonl", TEXTS), shard_tokens=2000)


def documents(split, end=0) -> list[str]:
    stream = np.concatenate(split.shards)
    assert stream[-1] == end
    return [bytes(part.astype(np.uint8)).decode() for part in np.split(stream[:-1], np.flatnonzero(stream[:-1] == end))]


def contents(text) -> dict[str, bytes]:
    return {name: np.concatenate(text.split(name).shards).tobytes() for name in ("train", "eval")}


def test_every_document_is_in_one_split(made):
    train, held = (["".join(d.split("\0")) for d in documents(made.split(name))] for name in ("train", "eval"))
    assert sorted(train + held) == sorted(TEXTS)
    assert 30 < len(held) < 95  # a fifth of 300, by hash
    for name, parts in (("train", train), ("eval", held)):
        split = made.split(name)
        assert split.num_documents == len(parts) and split.num_bytes == sum(len(p.encode()) for p in parts)
        assert split.num_tokens == split.num_bytes + len(parts) == split.offsets[-1]
    assert train != [t for t in TEXTS if t in set(train)]  # shuffled


def test_windows_predict_every_token_once(made):
    train = made.split("train")
    stream = np.concatenate(train.shards)
    assert len(train.shards) > 3
    for seq_len in (1, 7, 16, 2500):  # the last are longer than a shard
        n = train.num_windows(seq_len)
        window = train.windows(np.arange(n), seq_len)
        assert window.shape == (n, seq_len + 1) and window.dtype == np.uint16
        assert np.array_equal(window[:, 1:].ravel(), stream[1 : n * seq_len + 1])
        assert np.array_equal(window[1:, 0], window[:-1, -1])
        assert len(stream) - 1 - n * seq_len < seq_len
    for wrong in (-1, train.num_windows(16)):
        with pytest.raises(IndexError):
            train.windows(np.array([wrong]), 16)


def test_document_ids_are_those_of_predicted_tokens(made):
    train = made.split("train")
    stream = np.concatenate(train.shards)
    owner = np.cumsum(stream == made.end) - (stream == made.end)
    n = train.num_windows(16)
    assert np.array_equal(train.document_ids(np.arange(n), 16).ravel(), owner[1 : n * 16 + 1])


@given(st.integers(0, 10**9), st.integers(0, 300), st.integers(1, 40), st.data())
def test_a_batch_is_a_function_of_seed_and_step(made, seed, k, size, data):
    train = made.split("train")
    whole = train.batch(seed, k, size, 16)
    start, stop = sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size))))
    assert np.array_equal(train.batch(seed, k, size, 16, slice(start, stop)), whole[start:stop])
    rows = np.arange(size)[::-1]
    assert np.array_equal(train.batch(seed, k, size, 16, rows), whole[rows])


def test_an_epoch_shows_every_window_once_and_epochs_differ(made):
    train = made.split("train")
    n = train.num_windows(16)
    size = next(s for s in range(7, 99) if n % s)  # so that epochs end inside batches
    seen = np.concatenate([train.batch(3, k, size, 16) for k in range(-(-2 * n // size))])
    everything = sorted(map(bytes, train.windows(np.arange(n), 16)))
    assert sorted(map(bytes, seen[:n])) == everything == sorted(map(bytes, seen[n : 2 * n]))
    assert not np.array_equal(seen[:n], seen[n : 2 * n])
    other = np.concatenate([train.batch(4, k, size, 16) for k in range(-(-n // size))])[:n]
    assert not np.array_equal(other, seen[:n])


@given(st.integers(0, 10**9), st.integers(0, 50), st.integers(1, 40))
def test_rows_of_streams_go_on_where_the_last_batch_ended(made, seed, k, size):
    train = made.split("train")
    (before, _), (after, fresh) = (train.streams(seed, step, size, 16) for step in (k, k + 1))
    assert np.array_equal(before[~fresh, -1], after[~fresh, 0])
    assert fresh.sum() <= 1 or (fresh.all() and (k + 1) % (train.num_windows(16) // size) == 0)
    assert np.array_equal(train.streams(seed, k + 1, size, 16, slice(0, 1))[0], after[:1])


def test_an_epoch_of_streams_shows_almost_every_window_once(made):
    train = made.split("train")
    n, size = train.num_windows(16), 13
    batches = [train.streams(5, k, size, 16) for k in range(2 * (n // size))]
    seen = sorted(bytes(row) for batch, _ in batches[: n // size] for row in batch)
    everything = sorted(map(bytes, train.windows(np.arange(n), 16)))
    assert len(seen) > n - size and len(set(seen) - set(everything)) == 0
    assert len(seen) - len(set(seen)) <= len(everything) - len(set(everything))
    assert batches[0][1].all() and not np.array_equal(batches[0][0], batches[n // size][0])


def test_less_than_one_batch_is_refused(made):
    with pytest.raises(BadInput, match="less than one batch of 100000"):
        made.split("train").batch(0, 0, 100_000, 16)
    made.split("train").need(10, 16)


def test_eval_sample_is_spread_over_documents(made):
    held = made.split("eval")
    n = held.num_windows(16)
    sample = held.eval_sample(16 * 40, 16)
    assert len(sample) == 40 == len(set(sample)) and np.array_equal(sample, held.eval_sample(16 * 40 + 15, 16))
    assert sample.min() < n / 40 and sample.max() >= n - n / 40 and np.diff(sample).max() <= n / 40 + 1
    assert len(np.unique(held.document_ids(sample, 16))) > held.num_documents / 2
    assert held.eval_sample(None, 16).tolist() == held.eval_sample(10**9, 16).tolist() == list(range(n))
    for too_little in (15, 0):
        with pytest.raises(BadInput, match="no window"):
            held.eval_sample(too_little, 16)


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4))
def test_segments(rows):
    ids, positions = segments(np.array(rows), 0)
    for row, found, places in zip(rows, ids, positions, strict=True):
        segment = place = 0
        for token, its_id, its_place in zip(row, found, places, strict=True):
            assert (its_id, its_place) == (segment, place)
            segment, place = (segment + 1, 0) if token == 0 else (segment, place + 1)


def test_only_texts_and_seed_decide_the_stream(made, tmp_path):
    """Not the order of the files, the size of the shards, nor which process looks."""
    lines = write(tmp_path / "turned.jsonl", TEXTS[::-1])
    turned = tokens.prepare(section(tmp_path, lines))
    assert len(turned.split("train").shards) == 1 and contents(turned) == contents(made)
    assert turned.facts() == made.facts()
    seeded = tokens.prepare(section(tmp_path, lines, seed=1))
    assert contents(seeded)["eval"] == contents(made)["eval"] and contents(seeded)["train"] != contents(made)["train"]
    assert sorted(documents(seeded.split("train"))) != [] and seeded.facts()["data_hash"] != made.facts()["data_hash"]
    assert seeded.facts()["corpus_hash"] == made.facts()["corpus_hash"]


def test_documents_keep_their_side_and_copies_stay_together(tmp_path):
    more = tokens.prepare(section(tmp_path, write(tmp_path / "more.jsonl", TEXTS[:200] + TEXTS[:50] + ["new"] * 3)))
    less = tokens.prepare(section(tmp_path, write(tmp_path / "less.jsonl", TEXTS[:200])))
    strip = lambda split: {d.replace("\0", "") for d in documents(split)}
    assert strip(less.split("eval")) <= strip(more.split("eval")) and strip(less.split("train")) <= strip(
        more.split("train")
    )
    assert not strip(more.split("eval")) & strip(more.split("train"))


def test_bpe_store(tmp_path):
    data = section(
        tmp_path, write(tmp_path / "texts.jsonl", [*TEXTS, "<|endoftext|>", "nul\0nul"]), tokenizer="bpe:300"
    )
    text = tokens.prepare(data)
    split = text.split("train")
    ids = np.concatenate(split.shards)
    assert text.vocab_size == 300 and (ids == text.end).sum() == split.num_documents
    assert text.token_bytes[ids].sum() == split.num_bytes == text.manifest["splits"]["train"]["token_bytes"]
    everything = "".join(text.tokenizer.decode(np.concatenate(text.split(name).shards)) for name in ("train", "eval"))
    assert sorted(everything) == sorted("".join([*TEXTS, "<|endoftext|>", "nulnul"]))


def test_opening_again_builds_nothing_and_needs_no_tfds(fresh, monkeypatch):
    first = tokens.prepare(fresh)
    monkeypatch.setattr(packing, "build", None)
    assert tokens.prepare(fresh).manifest == first.manifest
    code = (
        "import sys; from lm import store; from pathlib import Path; store.open_store(Path(sys.argv[1])).split('train')"
    )
    check = f"{code}; sys.exit('tensorflow_datasets' in sys.modules or 'tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", check, str(first.path)], cwd=ROOT, check=True)


def killed_while_packing(data, after: int) -> None:
    """Prepare in a process that is killed while it writes shard number `after`."""
    code = f"""
import os, signal, sys, json
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from lm import packing, tokens
from ml_collections import ConfigDict
save, count = np.save, 0
def dying(file, array):
    global count
    count += 1
    if count == {after}:
        file.write(b"half a shard"); file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(file, array)
np.save = dying
tokens.prepare(ConfigDict(json.loads({json.dumps(data.to_json())})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_build_goes_on_where_it_was(fresh, made):
    killed_while_packing(fresh, after=5)
    (partial,) = Path(fresh.cache_dir, "tokens").glob("*.partial")
    kept = {path.name: path.stat().st_mtime_ns for path in partial.glob("train-*.npy")}
    assert len(kept) == 4
    damaged = partial / "train-00003.npy"
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"xx")
    finished = tokens.prepare(fresh)
    assert contents(finished) == contents(made) and not partial.exists()
    again = {path.name: path.stat().st_mtime_ns for path in finished.path.glob("train-*.npy")}
    assert sorted(name for name in kept if again[name] == kept[name]) == [f"train-0000{i}.npy" for i in range(3)]
    assert {p.name for p in finished.path.iterdir()} == {
        "manifest.json",
        *(entry["file"] for entry in store.files_of(finished.manifest)),
    }


def test_two_processes_prepare_one_store(fresh, made):
    code = (
        f"import sys, json; sys.path.insert(0, {str(ROOT)!r}); from lm import tokens\n"
        "from ml_collections import ConfigDict\n"
        f"print(tokens.prepare(ConfigDict(json.loads({json.dumps(fresh.to_json())}))).path)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0] and paths[0] == paths[1]
    assert contents(open_store(Path(paths[0]), verify=True)) == contents(made)


def test_the_second_process_waits(fresh, capsys):
    """The lock is held by somebody who builds the store meanwhile."""
    import threading

    from training.files import locked

    path = tokens.prepare(fresh).path
    hidden = path.rename(path.with_name("hidden"))
    with locked(path.with_name(f"{path.name}.lock"), ""):
        waiting = threading.Thread(target=tokens.prepare, args=(fresh,))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        hidden.rename(path)
    waiting.join(30)
    assert not waiting.is_alive() and "another process is preparing" in capsys.readouterr().err


def flip(path: Path, keep_time: bool = False) -> None:
    stat = path.stat()
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("name", ["train-00001.npy", "eval-00000.npy", "train-offsets.npy", "tokenizer.json"])
def test_damage_is_found(fresh, name):
    path = tokens.prepare(fresh).path
    flip(path / name)
    with pytest.raises(BadInput, match=rf"{name}: damaged") as caught:
        tokens.prepare(fresh)
    assert "\n" not in str(caught.value)


def test_missing_and_short_files_are_found(fresh):
    path = tokens.prepare(fresh).path
    shard = path / "train-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"train-00001\.npy: damaged"):
        open_store(path)
    shard.unlink()
    with pytest.raises(BadInput, match=r"train-00001\.npy: No such file"):
        open_store(path)
    (path / "manifest.json").write_text("{}")
    with pytest.raises(BadInput, match=r"manifest\.json: damaged"):
        open_store(path)
    (path / "manifest.json").unlink()
    with pytest.raises(BadInput, match="no token store"):
        open_store(path)


def test_large_stores_are_hashed_once(fresh, monkeypatch):
    """A process takes the word of `verified.json` for files whose size and time have not changed."""
    path = tokens.prepare(fresh).path
    hashed = []
    real = cache.sha256
    monkeypatch.setattr(cache, "HASHED_AT_ONCE", 0)
    monkeypatch.setattr(cache, "sha256", lambda file: hashed.append(file.name) or real(file))

    def another_process(**keys):
        hashed.clear()
        cache._checked.clear()
        open_store(path, **keys)
        return hashed

    assert len(another_process()) == len(store.files_of(json.loads((path / "manifest.json").read_text())))
    assert another_process() == []
    open_store(path)
    assert hashed == []  # nor twice in one process
    flip(path / "train-00001.npy", keep_time=True)
    assert another_process() == []
    with pytest.raises(BadInput, match="train-00001"):
        another_process(verify=True)
    os.utime(path / "train-00001.npy")
    with pytest.raises(BadInput, match="train-00001"):
        another_process()


def test_a_store_from_elsewhere(made, tmp_path):
    data = section(tmp_path / "unused", "")
    with data.unlocked():
        data.corpus, data.corpus_args.paths, data.corpus_args.path = "store", None, str(made.path)
    assert tokens.prepare(data).facts() == made.facts()
    data.tokenizer = "bpe:300"
    with pytest.raises(BadInput, match="does not match the manifest"):
        tokens.prepare(data)
    with pytest.raises(BadInput, match="does not match the manifest"):
        open_store(made.path, tokenizer.train_bpe(TEXTS, 300))
    data.corpus_args.path = None
    with pytest.raises(BadInput, match=r"data\.corpus_args\.path"):
        tokens.prepare(data)
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(("limit", "shard_tokens"), [(2000, 2000), (30_000, 1 << 25)])
def test_a_full_disk_leaves_nothing_half_written(fresh, limit, shard_tokens):
    """First the dataset does not fit, then the shard; a later try with room succeeds."""
    fresh.shard_tokens = shard_tokens
    code = f"""
import json, resource, sys
sys.path.insert(0, {str(ROOT)!r})
from lm import tokens
from ml_collections import ConfigDict
from training.errors import BadInput
import lm.corpora.builder
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    tokens.prepare(ConfigDict(json.loads({json.dumps(fresh.to_json())})))
except BadInput as error:
    print(error)
    sys.exit(error.exit_code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "MiB free" in done.stdout and done.stdout.count("\n") == 1
    folder = Path(fresh.cache_dir, "tokens")
    assert [path for path in folder.iterdir() if path.is_dir() and path.suffix != ".partial"] == []
    assert list(folder.rglob(".*")) == []
    assert tokens.prepare(fresh).split("train").num_documents > 200


def test_corpora_that_are_too_small(tmp_path):
    empty = section(tmp_path / "cache", write(tmp_path / "empty.jsonl", ["", "\0"]))
    with pytest.raises(BadInput, match="corpus files: empty"):
        tokens.prepare(empty)
    one = write(tmp_path / "one.jsonl", ["all there is"])
    with pytest.raises(BadInput, match="one character cannot be split"):
        tokens.prepare(section(tmp_path / "cache", write(tmp_path / "character.jsonl", ["a", ""])))
    copies = write(tmp_path / "copies.jsonl", ["the same"] * 3)
    with pytest.raises(BadInput, match=r"cannot be split by document .*separator"):
        tokens.prepare(section(tmp_path / "cache", copies))
    assert not any(path.is_dir() for path in (tmp_path / "cache" / "tokens").iterdir())
    whole = tokens.prepare(section(tmp_path / "cache", one, eval_fraction=0.0))
    assert whole.split("train").num_tokens == 13 and whole.split("eval").num_tokens == 0
    with pytest.raises(BadInput, match="no window"):
        whole.split("eval").eval_sample(None, 4)
    two = tokens.prepare(section(tmp_path / "cache", write(tmp_path / "two.jsonl", ["one", "two"]), eval_fraction=1e-9))
    assert two.split("eval").num_documents == 1  # never none


@pytest.mark.parametrize(
    ("key", "value"), [("eval_fraction", 1.0), ("eval_fraction", -0.1), ("seq_len", 0), ("shard_tokens", 0)]
)
def test_values_out_of_range(tmp_path, key, value):
    data = section(tmp_path, "unused", **{key: value})
    with pytest.raises(BadInput, match=f"data.{key}|must be positive"):
        tokens.prepare(data)


def test_where_the_cache_is(monkeypatch, tmp_path):
    data = tokens.defaults()
    monkeypatch.setenv("ISOFLOP_CACHE", str(tmp_path / "env"))
    assert tokens.cache_dir(data) == tmp_path / "env"
    data.cache_dir = str(tmp_path / "own")
    assert tokens.cache_dir(data) == tmp_path / "own"
    data.cache_dir = ""
    monkeypatch.delenv("ISOFLOP_CACHE")
    assert tokens.cache_dir(data) == Path.home() / ".cache" / "isoflop"


def test_the_standard_library(tmp_path):
    data = tokens.defaults()
    data.cache_dir = str(tmp_path)
    text = tokens.prepare(data)
    train, held = text.split("train"), text.split("eval")
    assert train.num_bytes + held.num_bytes > 5e6 and train.num_documents + held.num_documents > 300
    assert 0.01 < held.num_tokens / train.num_tokens < 0.15
    assert "def " in text.tokenizer.decode(train.batch(0, 0, 64, 128).ravel())


@pytest.mark.parametrize("beside", [[], [""]])
def test_the_end_of_an_only_document_is_held_out(tmp_path, capsys, beside):
    lines = "".join(f"line {i} of the only text\n" for i in range(100))
    one = write(tmp_path / "one.jsonl", [lines, *beside])
    store = tokens.prepare(section(tmp_path / "cache", one, eval_fraction=0.1))
    train, held = (store.split(name) for name in ("train", "eval"))
    decoded = [
        "".join(store.tokenizer.decode(text) for text in split.texts(np.arange(split.num_documents)))
        for split in (train, held)
    ]
    assert "".join(decoded) == lines and decoded[1].startswith("line 9") and decoded[0].endswith("\n")
    assert held.num_bytes / len(lines) == pytest.approx(0.1, abs=0.02)
    assert store.manifest["note"] in capsys.readouterr().err and "last 1" in store.manifest["note"]


def test_rows_of_the_table_beyond_the_symbols(tmp_path):
    data = section(tmp_path, "")
    assert tokens.vocab_size(data) == 256
    with data.unlocked():
        data.vocab_size = 384
    assert tokens.vocab_size(data) == 384
    data.vocab_size = 255
    with pytest.raises(BadInput, match="data.vocab_size: 255 rows are fewer than the 256 symbols"):
        tokens.vocab_size(data)
