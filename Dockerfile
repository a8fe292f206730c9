# morlaif with the CUDA build of torch; the same `make` targets inside as outside.
#   docker build -t morlaif .
#   launch/docker.sh experiment=quickstart hardware=gpu
FROM python:3.11.14-slim-bookworm

RUN apt-get update \
 && apt-get install --yes --no-install-recommends git=1:2.39.* make=4.3-* \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 morlaif \
 && install -d -o morlaif /work /app

USER 1000
WORKDIR /app
# The long step first, so that a change of the code does not repeat it.
COPY --chown=morlaif pyproject.toml constraints.txt ./
RUN python -m venv .venv \
 && .venv/bin/python -m pip install --no-cache-dir -c constraints.txt torch deepspeed transformers trl peft datasets
COPY --chown=morlaif . .
RUN .venv/bin/python -m pip install --no-cache-dir -c constraints.txt -e '.[deepspeed,joblib,slurm,wandb]' && touch .venv/installed

ENV PATH=/app/.venv/bin:$PATH
# Runs and store lie in the folder that is mounted here.
WORKDIR /work
ENTRYPOINT ["morlaif"]
