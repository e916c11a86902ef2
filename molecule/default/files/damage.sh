#!/bin/sh
# Usage: damage.sh FILE
# Changes one byte of FILE and nothing that stat tells, as a rotting disk does.
set -eu
mode=$(stat -c %a -- "$1")
modified=$(stat -c %y -- "$1")
chmod u+w -- "$1"
printf X | dd of="$1" bs=1 seek=1000 conv=notrunc status=none
touch -d "$modified" -- "$1"
chmod "$mode" -- "$1"
