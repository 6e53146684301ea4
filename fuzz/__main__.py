"""``make fuzz``: every target for a while under atheris, then mutated traffic for a real server.

Exit code 1 if something broke; the input is in ``out/fuzz``.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

from fuzz import traffic
from fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parent.parent

INPUT_S = 10
"""Seconds after which a few kilobytes count as a hang."""
MEMORY_MB = 2048
MAX_INPUT_BYTES = 4096


def search(name: str, seconds: int, out: Path) -> bool:
    """Run one target for ``seconds``. Gives: whether it held."""
    corpus = out / name
    corpus.mkdir(exist_ok=True)
    flags = [f"-max_total_time={seconds}", f"-timeout={INPUT_S}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={MAX_INPUT_BYTES}"]
    flags += [f"-artifact_prefix={out / name}-", "-print_final_stats=1"]
    command = [sys.executable, "-m", "fuzz.guided", name, str(corpus), *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    figures = {
        words[0]: words[-1] for line in done.stderr.splitlines() if (words := line.split()) and line.startswith("stat::")
    }
    covered = [line.split() for line in done.stderr.splitlines() if " cov: " in line]
    cover = covered[-1][covered[-1].index("cov:") + 1] if covered else "?"
    executed = figures.get("stat::number_of_executed_units:", "?")
    verdict = "BROKEN" if done.returncode else "nothing broke"
    print(f"  {name:13} {executed:>9} inputs, {cover} branches seen: {verdict}", flush=True)
    if done.returncode:
        print(done.stdout, *done.stderr.splitlines()[-12:], sep="\n")
    return not done.returncode


def main() -> int:
    """Parse, search, send."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Search for bytes that break a parser or the server.")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="parsers; all of them if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each of them")
    parser.add_argument("--requests", type=int, default=100_000, help="mutated images and requests for a real server")
    parser.add_argument("--seed", type=int, default=0, help="decides the requests")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "fuzz", help="folder for input that breaks something")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = True
    if importlib.util.find_spec("atheris") is None:
        print("atheris has no build for this machine: no search. `make test` tries every parser with hypothesis")
    elif options.seconds:
        print(f"{options.seconds} s for each parser:", flush=True)
        broken = [name for name in options.targets or TARGETS if not search(name, options.seconds, options.out)]
        kept = not broken
    if options.requests:
        for breach in traffic.run(options.requests, options.seed, options.out):
            print(f"BROKEN {breach}")
            kept = False
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
