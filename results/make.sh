#!/usr/bin/env bash
# Reproduce Tables 5 and 6 and Figure 6 from a fresh clone, without data: draw networks, keep the runs, write reports.
#     results/make.sh [ROOT]       resumes from the runs in ROOT (default outputs/drawn) and adds runs to results/
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:-outputs/drawn}
for preset in figure6 table6 table5; do python launch.py "experiment=$preset" "paths.root=$root"; done
python -m ersparse report "$root" --keep results
python -m ersparse report results
