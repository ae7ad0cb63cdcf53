#!/usr/bin/env bash
# Make an environment for each engine that benchmarks.sparse compares with: benchmarks/peers/make.sh FOLDER [ENGINE ...]
# `inference --peers FOLDER` finds those that could be made. DeepSparse needs Python 3.8 to 3.11 (PYTHON=python3.11).
# MNN is left out: its converter, whatever it is asked, installs a client that sends logs to its maker's servers.
# SparseLab and SparseProp are layers for PyTorch: they are added to a copy of the environment that PYTHON belongs to,
# and `linear`, `epoch`, `memory` and `convolutions` are run by FOLDER/sparselab/bin/python or FOLDER/sparseprop/bin/python.
set -uo pipefail
folder=${1:?usage: make.sh FOLDER [ENGINE ...]}
shift
python=${PYTHON:-python}
engines=("$@")
[ ${#engines[@]} -gt 0 ] || engines=(deepsparse onnxruntime openvino sparselab sparseprop)

make() { # name, then arguments of pip
    local name=$1 parent
    shift
    "$python" -m venv "$folder/$name" || return 1
    case $name in sparse*)
        parent=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
        echo "$parent" > "$("$folder/$name/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth" ;;
    esac
    "$folder/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}

for engine in "${engines[@]}"; do
    case $engine in
        deepsparse) make deepsparse deepsparse==1.8.0 onnx==1.14.1 'numpy<2' setuptools ;; # 1.9.0 does not build
        onnxruntime) make onnxruntime onnxruntime==1.32.0 onnx ;;
        openvino) make openvino 'openvino>=2026.4,<2027' ;;
        sparselab) make sparselab --no-deps sparselab==0.2.2 ;;
        sparseprop) make sparseprop --no-deps sparseprop==0.1.14 ;;
        *) echo "$engine: must be deepsparse, onnxruntime, openvino, sparselab or sparseprop" >&2; false ;;
    esac && echo "$engine: made" || { echo "$engine: could not be made" >&2; rm -rf "${folder:?}/$engine"; }
done
