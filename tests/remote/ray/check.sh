#!/usr/bin/env bash
# usage: check.sh BINARY [PYTHON]   The scenario of remote backends against a real Ray of two nodes, and what only Ray can show.
# PYTHON has the packages of requirements.txt; without one, they go to target/ray-venv (400 MB). Package: iproute2. Must be root: the
# nodes are network namespaces.
. "$(dirname "$0")/../setup.sh"
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$work/token")
RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$work/token "$here/cluster.sh" "$work" "$python" "$python" "$here/check.py" "$binary"
