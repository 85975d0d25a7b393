#!/bin/sh
# Run a command of protrna, or a program, which is how Nextflow and Galaxy start their tasks.
case $1 in
*/* | sh | bash | protrna) exec "$@" ;;
*) exec protrna "$@" ;;
esac
