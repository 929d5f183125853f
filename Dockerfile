# For machines with an NVIDIA driver and the NVIDIA Container Toolkit. It also runs without a GPU.
#
#   docker build -t dali_mix .
#   docker run --rm --gpus all dali_mix doctor
#
# torch and DALI bring their CUDA libraries, so the base image needs none.
FROM python:3.11-slim-bookworm

# OpenCV loads libGL and GLib; Triton compiles its launcher with a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y gcc libc6-dev libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

WORKDIR /opt/dali_mix
COPY . .
RUN PIP_CONSTRAINT=.ci/constraints.txt pip install -e ".[vis]" \
    && useradd --create-home dali

USER dali
WORKDIR /home/dali
ENTRYPOINT ["dali-mix"]
CMD ["--help"]
