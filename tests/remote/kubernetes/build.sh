#!/usr/bin/env bash
# A Kubernetes control plane (kube-apiserver, kube-controller-manager, kube-scheduler, etcd) from Debian's packages and source, into
# CACHE/bin. Nothing is installed on the machine. The first time takes ten minutes of processor and 2 GB of disk; what is there is
# not made again.
#   build.sh CACHE
set -euo pipefail
cache=$(realpath -m "${1:?usage: build.sh CACHE}")
programs=(kube-apiserver kube-controller-manager kube-scheduler)
built() { for program in "${programs[@]}" etcd; do [[ -x $cache/bin/$program ]] || return 1; done; }
built && exit 0

mkdir -p "$cache"/{bin,packages,apt/lists/partial,apt/sources,go-build,tmp}
cd "$cache"
# Debian's sources beside its packages, for this folder alone: the machine's own lists stay as they are.
for list in /etc/apt/sources.list.d/debian.sources; do
  sed 's/^Types:.*/Types: deb deb-src/' "$list" > apt/sources/debian.sources
done
apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$cache/apt/sources" -o Dir::State::lists="$cache/apt/lists"
  -o APT::Sandbox::User=root)
"${apt[@]}" update

(cd packages && "${apt[@]}" download etcd-server golang-1.19-go golang-1.19-src rsync libpopt0 libxxhash0)
for package in packages/*.deb; do dpkg-deb -x "$package" sysroot; done
cp sysroot/usr/bin/etcd bin/etcd
cat > version <<END
KUBE_GIT_COMMIT=debian
KUBE_GIT_TREE_STATE=archive
KUBE_GIT_VERSION=v1.20.2
KUBE_GIT_MAJOR=1
KUBE_GIT_MINOR=20
END

[[ -f source/go.mod ]] || {
  "${apt[@]}" source --download-only kubernetes
  rm -rf source
  dpkg-source --no-check -x kubernetes_*.dsc source
}
export GOROOT=$cache/sysroot/usr/lib/go-1.19 GOCACHE=$cache/go-build GOTMPDIR=$cache/tmp CGO_ENABLED=0 HOME=$cache GOMAXPROCS=2
export PATH=$GOROOT/bin:$cache/sysroot/usr/bin:$PATH LD_LIBRARY_PATH=$cache/sysroot/usr/lib/x86_64-linux-gnu GOFLAGS=-p=2
# As Debian's own rules do: parts of the source are generated first.
export GOPATH=$cache/source/.go
mkdir -p "$GOPATH/src/k8s.io"
ln -sfn ../../.. "$GOPATH/src/k8s.io/kubernetes"
nice -n 19 make -C source WHAT="${programs[*]/#/cmd/}" KUBE_GIT_VERSION_FILE="$cache/version"
for program in "${programs[@]}"; do cp "source/_output/bin/$program" bin/; done
