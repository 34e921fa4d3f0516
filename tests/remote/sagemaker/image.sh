#!/usr/bin/env bash
# usage: image.sh BINARY FOLDER   Builds deploy/sagemaker/Dockerfile as localhost/tunesmith:1, in the podman of PODMAN_ROOT. In place
# of the CUDA base there is one of the libraries that the binary needs, from this machine: no registry is asked.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$1 work=$2
podman() {
    command podman --root "$PODMAN_ROOT" --runroot "$PODMAN_ROOT-run" --storage-driver vfs --cgroup-manager=cgroupfs "$@"
}
mkdir -p "$work/rootfs/tmp" "$work/rootfs/usr/local/bin" "$work/context"
chmod 1777 "$work/rootfs/tmp"
ldd "$binary" | awk '/=> \//{print $3} /^\t\/lib/{print $1}' | while read -r library; do
    mkdir -p "$work/rootfs$(dirname "$library")"
    cp -L "$library" "$work/rootfs$library"
done
tar -C "$work/rootfs" -cf "$work/base.tar" .
podman import --quiet "$work/base.tar" localhost/base:1
cp "$binary" "$here/../../../deploy/sagemaker/Dockerfile" "$work/context"
mv "$work/context/$(basename "$binary")" "$work/context/tunesmith.new" && mv "$work/context/tunesmith.new" "$work/context/tunesmith"
podman build --quiet --build-arg BASE=localhost/base:1 --tag localhost/tunesmith:1 "$work/context"
