#!/usr/bin/env bash
# The first ten minutes on a GPU: whole runs of every kind, their speed, and what they wait for.
#
#   benchmarks/gpu.sh [FOLDER]                    writes FOLDER/summary.json (default gpu-day), also if checks fail
#   REHEARSE=1 benchmarks/gpu.sh [FOLDER]         the same checks on the CPU, on tiny networks: ten, in 82
#                                                 seconds on two cores; limits are ten times as long
#   ONLY=speed:resnet20 benchmarks/gpu.sh         checks whose names begin so; LIMIT=600: seconds in all
#   python -m benchmarks gpu-report gpu-day/summary.json      the table for benchmarks/README.md
set -u
cd "$(dirname "$0")/.." || exit 1
"${PYTHON:-python}" -m benchmarks.gpu_day "${1:-gpu-day}"
exit 0
