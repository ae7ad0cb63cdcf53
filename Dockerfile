# CPU:  docker build --tag ersparse .
# CUDA: docker build --tag ersparse:cuda --build-arg DEVICE=cuda .     then: docker run --gpus all ersparse:cuda run ...
FROM python:3.11-slim-bookworm

ARG DEVICE=cpu
# g++ compiles the kernels of sparse execution, once for each processor; git records the commit of a user's own code
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*

COPY constraints.txt /src/
# PyTorch for CUDA comes from PyPI, with its libraries; without them it has an index of its own
RUN case "$DEVICE" in \
        cuda) index= ;; \
        cpu) index="--index-url https://download.pytorch.org/whl/cpu" ;; \
        *) echo "DEVICE=$DEVICE: must be cpu or cuda" >&2; exit 2 ;; \
    esac \
    && pip install --no-cache-dir --constraint /src/constraints.txt $index torch torchvision

COPY pyproject.toml setup.py README.md LICENSE /src/
COPY conf /src/conf
COPY ersparse /src/ersparse
COPY hydra_plugins /src/hydra_plugins
RUN pip install --no-cache-dir --constraint /src/constraints.txt "/src[timm,optuna]"

# Results and data come from mounted folders: docker run --volume "$PWD:/runs" --user "$(id -u):$(id -g)" ersparse run
ENV HOME=/tmp ERSPARSE_DATA=/runs/data
WORKDIR /runs
ENTRYPOINT ["ersparse"]
CMD ["--help"]
