#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# enter_machine.sh HOST COMMAND...: what ssh does between real machines, for those of machines.h. Launchers of MPI call it.
set -euo pipefail
host="$1"
shift
holder="HOLDER_OF_$host"
exec nsenter -t "${!holder}" -n -u -m sh -c "$*"
