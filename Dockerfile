# A server of an exported folder, which is mounted at /model:
#
#   docker build -t lit_bert .
#   docker run -p 8000:8000 -e LIT_BERT_TOKEN=... -v "$PWD/runs/<run>/export:/model:ro" lit_bert
#
# PyPI's PyTorch brings CUDA with it, for `docker run --gpus all`. A smaller image, for CPUs alone:
#
#   docker build -t lit_bert --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .

FROM python:3.12-slim

ARG TORCH_INDEX=""
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lit_bert lit_bert
RUN if [ -n "$TORCH_INDEX" ]; then pip install torch -c constraints.txt --index-url "$TORCH_INDEX"; fi \
    && pip install ".[serve,explain]" -c constraints.txt

RUN useradd --create-home --uid 1000 lit_bert
USER lit_bert
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]

# 0.0.0.0 asks for a token: LIT_BERT_TOKEN
CMD ["python", "-m", "lit_bert.serve", "--ckpt_path", "/model", "--host", "0.0.0.0"]
