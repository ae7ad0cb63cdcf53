#!/usr/bin/env bash
# Train cells of Tables 2, 4 and 7 with the recipe of the paper, all 160 epochs, one after the other in order of cost.
#     results/cells.sh [ROOT]      resumes from the runs in ROOT (default outputs/cells); each finished run is added to results/
# Finished cells are skipped and interrupted ones resume, so the command may be stopped and issued again at any time.
# CIFAR-10 lies in, or is downloaded to, the folder that ERSPARSE_DATA names. Activations are stored in float32
# (docs/paper.md, "Trained cells").
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:-outputs/cells}
cells() {  # one line per run: the preset and its cell
    for seed in 0 1 2; do echo "table2 sparsity=erk sparsity.level=0.999 seed=$seed"; done
    for seed in 0 1 2; do echo "table2 sparsity=uniform sparsity.level=0.999 seed=$seed"; done
    for densities in balanced pyramidal snip; do echo "table2 sparsity=$densities sparsity.level=0.999 seed=0"; done
    for seed in 0 1 2; do echo "table2 sparsity=erk sparsity.level=0.995 seed=$seed"; done
    for densities in uniform balanced; do echo "table2 sparsity=$densities sparsity.level=0.995 seed=0"; done
    echo "table2 sparsity=erk sparsity.level=0.99 seed=0"
    echo "table4 sparsity=erk sparsity.level=0.99 seed=0"
    echo "table7 sparsity=erk sparsity.level=0.999 seed=0"
}
cells | while read -r preset cell; do
    # shellcheck disable=SC2086  # a cell is several words
    nice -n 19 python launch.py "experiment=$preset" $cell \
        trainer.execution=sparse trainer.precision=32-true "paths.root=$root" < /dev/null
    python -m ersparse report "$root" --keep results
done
python -m ersparse report results
