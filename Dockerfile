# docker build -t wsitool .                                      runs on a CPU, and on a GPU where the wheels of torch allow it
# docker build --build-arg TORCH_INDEX=ADDRESS -t wsitool .      torch from that index: wheels for one CUDA, or small ones for CPUs
# docker run --rm --user "$(id -u)" -v "$PWD:/data" wsitool tile slides --out patches      (--gpus all for a GPU)
FROM python:3.12.8-slim-bookworm

ARG TORCH_INDEX=""
# Whoever --user is has no home: what libraries keep goes to /tmp.
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HOME=/tmp

COPY pyproject.toml README.md LICENSE /src/
COPY wsitool /src/wsitool
COPY plugins /src/plugins
# Torch first: what is installed then is not fetched again from the usual index.
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" torch torchvision; fi \
    && pip install "/src[timm,view]" \
    && rm -rf /src

RUN useradd --no-create-home --uid 1000 wsitool
USER wsitool
WORKDIR /data
ENTRYPOINT ["wsitool"]
CMD ["--help"]
