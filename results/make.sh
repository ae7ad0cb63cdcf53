#!/usr/bin/env bash
# Tables 5 and 6 and Figure 6 for the densities that need no data: draws, keeps, reports.
#     results/make.sh [ROOT]       resumes what is in ROOT (outputs), adds to results/
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:-outputs}
for preset in figure6 table6 table5; do python launch.py "experiment=$preset" "paths.root=$root"; done
python -m ersparse report "$root" --keep results
python -m ersparse report results
