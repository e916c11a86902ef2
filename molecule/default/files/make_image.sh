#!/bin/sh
# Usage: make_image.sh DIRECTORY IMAGE RELEASE PACKAGES [SOURCE]
# Makes IMAGE from Debian's archive where podman has none yet; no registry is needed. Says so. One at a time: stories that begin together want the same.
set -eu
directory=$1 image=$2 release=$3 packages=$4
shift 4
exec 9>/run/lock/openclaw-backup-lab
flock 9
if podman image exists "$image"; then exit 0; fi
# Each host makes its own key.
mmdebstrap --quiet --variant=minbase "--include=$packages" '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*' "$release" "$directory/root.tar" "$@" >&2
podman import --quiet "$directory/root.tar" "$image"
rm "$directory/root.tar"
