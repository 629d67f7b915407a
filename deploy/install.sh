#!/bin/sh
# Installs avatar-rtc on this machine, or into an image: Debian 12 or what is like it, as root. Run again, it updates.
#
#   deploy/install.sh                      PyTorch's build for CPUs
#   TORCH_INDEX= deploy/install.sh         that for GPUs: 6.0 GB in place of 1.4
#   EXTRAS=listen deploy/install.sh        also what hears callers; hallo-live, cluster and others by commas
#
# The program goes to /opt/avatar-rtc, its config to /etc/avatar-rtc.yaml, where one stays that is there already. Where systemd runs,
# the service is made known to it, and not started.
set -eu

prefix=/opt/avatar-rtc
config=/etc/avatar-rtc.yaml
source=$(cd "$(dirname "$0")/.." && pwd)
index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}

if [ "$(id -u)" != 0 ]; then
  echo "$0: run it as root, because it writes to $prefix and /etc" >&2
  exit 2
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends python3 python3-venv ca-certificates

python3 -m venv "$prefix"
pip="$prefix/bin/pip install --quiet --disable-pip-version-check --no-cache-dir"
echo "installing PyTorch and the rest into $prefix, which takes some minutes"
# What PyTorch needs comes with the rest, so that its own page is asked for nothing else.
$pip --no-deps --retries 1 ${index:+--extra-index-url "$index"} torch==2.13.0
# Built from a copy: nothing is written where the source lies, and what was built there before does not get in.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
parts="LICENSE NOTICE README.md avatar_rtc configs model pyproject.toml setup.py signaling static"
tar -c -C "$source" $parts | tar -x -C "$copy"
$pip "$copy${EXTRAS:+[$EXTRAS]}"
$pip --force-reinstall --no-deps "$copy" # an update may have the version that was there

ln -sf "$prefix/bin/avatar-rtc" /usr/local/bin/avatar-rtc
[ -e "$config" ] || avatar-rtc config pocket > "$config"
if [ -d /run/systemd/system ]; then
  install -m 644 "$source/deploy/avatar-rtc.service" /etc/systemd/system/avatar-rtc.service
  systemctl daemon-reload
  echo "installed; 'systemctl enable --now avatar-rtc' starts it, 'avatar-rtc doctor' says how fast it will be"
else
  echo "installed; 'avatar-rtc serve --config $config' starts it, 'avatar-rtc doctor' says how fast it will be"
fi
