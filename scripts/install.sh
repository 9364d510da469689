#!/bin/sh
# Makes the virtual environment $1 with saescope, editable, at the tested versions; with PyTorch's CPU build where there is
# no GPU, because the default build on Linux brings several gigabytes of CUDA libraries.
set -eu

venv=$1
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    # The system's python3 may be older or newer than what is tested.
    for candidate in python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c 'import venv' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
fi
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "saescope needs Python 3.11, 3.12 or 3.13; name one: make PYTHON=/path/to/python3.12" >&2
    exit 2
}

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check"
torch=$(sed -n 's/^torch==//p' constraints.txt)

if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then
        # A CPU build that pip itself can find comes first; else uv, which knows where PyTorch keeps them.
        $pip install -qq "torch==$torch+cpu" 2>/dev/null || {
            $pip install -qq uv
            "$venv/bin/uv" pip install -q --python "$venv/bin/python" --torch-backend=cpu "torch==$torch"
        } || {
            echo "no CPU build of PyTorch was found; installing the default one, which is large" >&2
            $pip install -qq "torch==$torch"
        }
    else
        $pip install -qq "torch==$torch"
    fi
fi
$pip install -qq -c constraints.txt -e . --group dev 2>/dev/null || {
    # Dependency groups need pip 25.1.
    $pip install -qq --upgrade 'pip>=25.1'
    $pip install -qq -c constraints.txt -e . --group dev
}
