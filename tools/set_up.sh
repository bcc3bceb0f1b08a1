#!/bin/sh
# Make a virtual environment in the folder $1 and install the project with its development tools into it.
set -eu
venv=$1
python=${PYTHON:-python3}

command -v "$python" >/dev/null || { echo "error: $python not found. Install Python 3.11 or newer." >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version) is too old; Python 3.11 or newer is needed. Name another: make PYTHON=python3.12" >&2
    exit 2
}
if ! [ -x "$venv/bin/pip" ]; then
    rm -rf "$venv"
    if ! "$python" -m venv "$venv" 2>/dev/null; then
        # Debian and Ubuntu keep the venv module in a package of its own.
        rm -rf "$venv"
        package=$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && apt-get install -y -qq "$package"
            "$python" -m venv "$venv"
        else
            echo "error: $python cannot make a virtual environment. Run: sudo apt install $package" >&2
            exit 2
        fi
    fi
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,cluster]'
