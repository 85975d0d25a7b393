#!/usr/bin/env bash
# Slurm on this machine alone, with a munge of its own, in one folder; for tests/cluster/test_slurm.py.
#
#   tests/slurm/one_node.sh start DIR     then: export SLURM_CONF=DIR/slurm.conf
#   tests/slurm/one_node.sh stop DIR
#
# Needs root and Debian's packages slurm-wlm and munge. Nothing outside DIR is written. The node claims to have
# 16 processors, 32 GB and 4 GPUs, so that jobs written for a real one can be submitted as they are.
set -euo pipefail
action=${1:-} folder=$(realpath "${2:?name a folder}")
export SLURM_CONF=$folder/slurm.conf

start() {
    mkdir -p "$folder"/{state,spool}
    chmod 755 "$folder"
    head -c 1024 /dev/urandom > "$folder/munge.key"
    chmod 400 "$folder/munge.key"
    munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" --force 2> /dev/null
    # A requeued job waits for its old credential to expire, two minutes unless told otherwise.
    cat > "$SLURM_CONF" << END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=${SLURM_TEST_PORT:-26817}
SlurmdPort=$((${SLURM_TEST_PORT:-26817} + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SlurmdParameters=config_overrides
GresTypes=gpu
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,batch_sched_delay=1
MinJobAge=3600
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=16 RealMemory=32000 Gres=gpu:4 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    touch "$folder"/gpu{0..3}  # what a real node has in /dev
    echo "Name=gpu File=$folder/gpu[0-3]" > "$folder/gres.conf"
    slurmctld
    slurmd
    for _ in $(seq 100); do
        [[ $(sinfo --noheader --format=%t 2> /dev/null) == idle ]] && return
        sleep 0.3
    done
    tail "$folder"/slurm*.log >&2
    exit 1
}

stop() {
    for name in slurmd slurmctld munged; do
        [[ -s $folder/$name.pid ]] && kill "$(cat "$folder/$name.pid")" || true
    done
}

case $action in
    start | stop) "$action" ;;
    *) sed -n '4,5p' "$0" >&2 && exit 2 ;;
esac
