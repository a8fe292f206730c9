#!/bin/sh
# A virtual environment with TRL 1.12.0, the last release with PPOTrainer, for the comparison in this folder.
#
#     benchmarks/ppo/make_trl_env.sh FOLDER [PYTHON]
#
# PYTHON (default: python) is the interpreter that morlaif runs in. All but TRL, torch and transformers first of all, is
# taken from there, so that both sides of the comparison compute with the same libraries.
set -e
folder=$1
python=${2:-python}
"$python" -m venv "$folder"
"$python" -c 'import sys; print("\n".join(p for p in sys.path if p.endswith("site-packages")))' \
    > "$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
"$folder/bin/python" -m pip install --quiet --no-deps trl==1.12.0
"$folder/bin/python" -c 'import torch, transformers, trl; print(f"trl {trl.__version__}, torch {torch.__version__}, transformers {transformers.__version__}")'
