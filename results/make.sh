#!/usr/bin/env bash
# Tables 5 and 6 and Figure 6, from a fresh clone, without data: draws, keeps, reports.
#     results/make.sh [ROOT]       goes on with what is in ROOT (outputs/drawn), adds to results/
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:-outputs/drawn}
for preset in figure6 table6 table5; do python launch.py "experiment=$preset" "paths.root=$root"; done
python -m ersparse report "$root" --keep results
python -m ersparse report results
