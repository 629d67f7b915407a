#!/bin/sh
# Tries install.sh in a fresh Debian, as root: mmdebstrap makes its root, the script runs in it, and a call is made with what it has
# installed. An image takes the same steps.
#
#   deploy/try.sh
#   SHOW="/etc/pip.conf /srv/wheels" deploy/try.sh       also shows it these paths of this machine, to read: such as where pip looks
#
# Mounts are made in a namespace of their own, and end with it; only then its root is removed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = --inside ]; then
  root=$2
  for path in /proc /dev; do mount --rbind "$path" "$root$path"; done
  for path in ${SHOW:-}; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$root$(dirname "$path")" && touch "$root$path"; fi
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
  done
  chroot "$root" /source/deploy/install.sh
  du -sm "$root/opt/avatar-rtc"
  chroot "$root" avatar-rtc serve --config /etc/avatar-rtc.yaml --engine fake --port 8099 >"$root/server.log" 2>&1 &
  chroot "$root" avatar-rtc say http://127.0.0.1:8099 "Hello, nice to meet you." || { cat "$root/server.log"; exit 1; }
  kill "$!"
  wait "$!"
  grep "shutting down" "$root/server.log"
  exit
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mmdebstrap --quiet --variant=minbase bookworm "$root"
cp /etc/resolv.conf /etc/hosts "$root/etc"
# Certificates that this machine trusts besides Debian's own, such as a proxy's.
mkdir -p "$root/usr/local/share/ca-certificates" "$root/source"
cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates" 2>/dev/null || true
git -C "$here/.." archive HEAD | tar -x -C "$root/source"
unshare --mount --propagation private --pid --fork "$0" --inside "$root"
