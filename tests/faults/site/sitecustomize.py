"""Read by every Python process of a command under test before anything else: it fails where it was told to.

`$ISOFLOP_FAULTS` names a folder. Each file `<name>.fault` in it is a fault, as JSON:

    event    a pattern: of the path of a file that is about to be opened for writing, made, renamed, linked or removed,
             or of a name of `MOMENTS`
    first    the number of the matching event at which it happens, counted in each process from 1
    signal   what the process then sends
    to       "self" or "parent"
    delay    seconds from then to the signal
    times    in how many processes at most
    error    an errno, which every matching event raises in the place of a signal, while the file is there
    slow     seconds that every matching event takes, while the file is there

A signal that was sent is a line of `sent.jsonl`, a record that is about to be put in place one of `ended.jsonl`. `clock`
holds the seconds by which the clock of the day is wrong. What a process does to the folder itself is no event.
"""

import json
import os
import re
import sys
import threading
import time

FOLDER = os.environ.get("ISOFLOP_FAULTS")
EVENTS = {"open": 0, "os.rename": 1, "os.link": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.truncate": 0}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOMENTS = {"training.data": ("batches", "@step"), "training.evaluation": ("evaluate", "@evaluation")}
LOOK = 0.2  # seconds between two looks at the folder


class _Injector:
    def __init__(self, folder: str):
        self._folder, self._read_at = folder, -1.0
        self._faults: dict[str, dict] = {}
        self._counts: dict[str, int] = {}
        self._inside = threading.local()
        self._patched: set[str] = set()

    def audit(self, event: str, args: tuple) -> None:
        if event not in EVENTS or getattr(self._inside, "yes", False):
            return
        if event == "open" and not (isinstance(args[2], int) and args[2] & WRITING):
            return
        path = args[EVENTS[event]]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        self.happen(os.fsdecode(path), event)

    def happen(self, what: str, event: str = "", last=None) -> None:
        """Something is about to happen: let it fail if it is to; `last` is done before a signal is sent."""
        if getattr(self._inside, "yes", False):
            return
        self._inside.yes = True
        try:
            if what.startswith(self._folder):
                return
            self._patch()
            for name, fault in self._faults_now().items():
                if re.search(fault["event"], what):
                    self._fail(name, fault, what, event, last)
            if event == "os.rename" and what.endswith("/result.json"):
                self._note("ended.jsonl", run=what.split("/")[-2], pid=os.getpid())
        finally:
            self._inside.yes = False

    def _faults_now(self) -> dict[str, dict]:
        now = time.monotonic()
        if now - self._read_at > LOOK:
            self._read_at, found = now, {}
            for name in sorted(os.listdir(self._folder)):
                if name.endswith(".fault"):
                    try:
                        with open(os.path.join(self._folder, name)) as file:
                            found[name] = json.load(file)
                    except (OSError, ValueError):  # it is being written or removed
                        continue
            self._faults = found
        return self._faults

    def _fail(self, name: str, fault: dict, what: str, event: str, last) -> None:
        if fault.get("slow"):
            time.sleep(fault["slow"])
        if fault.get("error"):
            raise OSError(fault["error"], os.strerror(fault["error"]), what)
        if not fault.get("signal"):
            return
        self._counts[name] = self._counts.get(name, 0) + 1
        if self._counts[name] != fault.get("first", 1) or not self._take(name, fault.get("times", 1)):
            return
        if last is not None:
            last()
        pid = os.getppid() if fault.get("to") == "parent" else os.getpid()
        self._note("sent.jsonl", fault=name, what=what, event=event, signal=fault["signal"], pid=pid)
        if fault.get("delay"):
            threading.Timer(fault["delay"], os.kill, (pid, fault["signal"])).start()
        else:
            os.kill(pid, fault["signal"])

    def _take(self, name: str, times: int) -> bool:
        """Whether this process is among the first `times` in which a fault happens."""
        for i in range(times):
            try:
                os.close(os.open(os.path.join(self._folder, f"{name}.{i}.taken"), os.O_CREAT | os.O_EXCL))
                return True
            except FileExistsError:
                continue
        return False

    def _note(self, name: str, **values) -> None:
        file = os.open(os.path.join(self._folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, (json.dumps(values) + "\n").encode())
        os.close(file)

    def _patch(self) -> None:
        """Let the moments of modules that have been imported meanwhile be events too."""
        for name, (function, moment) in MOMENTS.items():
            module = sys.modules.get(name)
            if module is None or name in self._patched or not hasattr(module, function):
                continue
            self._patched.add(name)
            setattr(module, function, self._announced(getattr(module, function), moment))
        directory = sys.modules.get("training.run_directory")
        if directory is not None and "run_directory" not in self._patched and hasattr(directory, "RunDirectory"):
            self._patched.add("run_directory")
            directory.RunDirectory.log = self._torn(directory.RunDirectory.log)

    def _announced(self, function, moment):
        def announced(*args, **kwargs):
            self.happen(moment)
            return function(*args, **kwargs)

        return announced

    def _torn(self, log):
        def torn(run, step, **values):
            def half() -> None:
                with open(run.path / "metrics.jsonl", "a") as file:
                    file.write(json.dumps({"step": step, "attempt": run.attempt})[:-7])

            self.happen("@metrics", last=half)
            return log(run, step, **values)

        return torn


def _shift_clock(file: str) -> None:
    true, read = time.time, [-1.0, 0.0]

    def wrong() -> float:
        if time.monotonic() - read[0] > LOOK:
            read[0] = time.monotonic()
            try:
                with open(file) as opened:
                    read[1] = float(opened.read() or 0.0)
            except OSError:
                read[1] = 0.0
        return true() + read[1]

    time.time = wrong


if FOLDER:
    sys.addaudithook(_Injector(FOLDER).audit)
    _shift_clock(os.path.join(FOLDER, "clock"))
