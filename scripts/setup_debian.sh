#!/usr/bin/env bash
# Installs what a bare Debian or Ubuntu machine lacks for `make test` and `make lint`; does nothing where all is there.
# Usage: bash scripts/setup_debian.sh   (as root, or with sudo at hand)
set -euo pipefail

packages=()
have() { command -v "$1" >/dev/null 2>&1; }

have make || packages+=(make)
have git || packages+=(git)
if ! have python3; then
  packages+=(python3 python3-venv)
elif ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
  packages+=(python3-venv)
fi
# On machines without GPU DeepSpeed compiles a part of itself.
have c++ || packages+=(g++)
# pyright runs on node.
have node || packages+=(nodejs)
have npm || packages+=(npm)
# The tests of the report open it in a browser.
have chromium || have google-chrome || packages+=(chromium)
# Code that models wrote runs inside its namespaces.
have bwrap || packages+=(bubblewrap)

if [ ${#packages[@]} -eq 0 ]; then
  exit 0
fi
if ! have apt-get; then
  echo "missing: ${packages[*]}; this machine has no apt-get, install them by its own means" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  have sudo || { echo "missing: ${packages[*]}; run this as root" >&2; exit 1; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -q
"${as_root[@]}" apt-get install -q -y --no-install-recommends "${packages[@]}"
