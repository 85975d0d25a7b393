#!/bin/sh
# The words are those of protrna, unless they begin with a program, as Nextflow and Galaxy start their tasks.
case $1 in
*/* | sh | bash | protrna) exec "$@" ;;
*) exec protrna "$@" ;;
esac
