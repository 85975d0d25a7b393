#!/bin/sh
# Run a command as in a container: box.sh FOLDER COMMAND...
# No network, no user of that name, everything read-only but FOLDER/work and the 8 MB of FOLDER/tmp.
# To be run by: unshare --user --map-root-user --net --mount
set -e
folder=$1
shift
mount --bind "$folder/work" "$folder/work"
mount -t tmpfs -o size=8m tmpfs "$folder/tmp"
for each in /tmp /var/tmp; do
    mount --rbind "$each" "$each"
    mount -o remount,bind,ro "$each"
done
mount -o remount,bind,ro /
cd "$folder/work"
exec unshare --user --map-user=12345 --map-group=12345 -- "$@"
