#!/bin/sh
# Usage: make_tree.sh DIRECTORY
# Makes DIRECTORY/source with the kinds of files that backups get wrong, and DIRECTORY/original like it.
set -eu
cd "$1"
mkdir -p source/notes source/empty
echo "one" >source/notes/one
echo "two" >"source/notes/two words"
echo "odd" >"source/$(printf 'line\nbreak \377')"
echo "dash" >source/-rf
: >source/zero
seq 100000 >source/numbers
truncate -s 10M source/sparse
ln source/numbers source/numbers.link
ln -s notes/one source/link
ln -s /nowhere source/dangling
mkfifo source/pipe
chmod 0640 source/notes/one
chmod 2750 source/notes
touch -d '1969-07-20 20:17:40.123456789 UTC' source/notes/one
if [ "$(id -u)" -eq 0 ]; then chown 1234:4321 source/zero; fi
cp -a source original
