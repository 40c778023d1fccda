#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs those packages of packages.txt that are missing. Needs neither root nor a network when none is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

is_installed() {
  dpkg-query --show --showformat '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

if ! command -v dpkg-query >/dev/null; then
  echo "No dpkg on this machine: skipping scripts/packages.txt, CMake will name what is missing." >&2
  exit 0
fi

missing=()
while read -r package _; do
  [[ -z $package || $package == \#* ]] || is_installed "$package" || missing+=("$package")
done <packages.txt
((${#missing[@]})) || exit 0

# sudo may ask for a password only where somebody can type one.
as_root=()
if ((EUID != 0)); then
  as_root=(sudo)
  [[ -t 0 ]] || as_root+=(--non-interactive)
fi
install=(apt-get install --yes --no-install-recommends "${missing[@]}")

echo "Installing ${missing[*]}"
if ! { "${as_root[@]}" apt-get update --quiet &&
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" --quiet; }; then
  echo "Could not install what is missing. Run this as root, then start again:" >&2
  echo "  apt-get update && ${install[*]}" >&2
  exit 1
fi
