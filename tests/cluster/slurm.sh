#!/usr/bin/env bash
# scripts/train_slurm.sh on a real Slurm: two nodes of two fake GPUs on this machine, set up and taken down by this script.
# Needs root, slurmctld, slurmd, munged (Debian: slurm-wlm, munge) and dali_mix in PYTHON. Not part of `make test`.
# Usage: tests/cluster/slurm.sh [SCENARIO ...]      FOLDER=/tmp/slurm-test keeps logs; about 17 minutes on two busy cores
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHON=${PYTHON:-$root/.venv/bin/python} OMP_NUM_THREADS=1
folder=${FOLDER:-$(mktemp -d /tmp/slurm-test.XXXXXX)}
mkdir -p "$folder"/{state,log,jobs}
export SLURM_CONF=$folder/slurm.conf MASTER_ADDR=127.0.0.1
cd "$folder/jobs"

setup() {
    head -c 1024 /dev/urandom >"$folder/munge.key"
    chmod 400 "$folder/munge.key"
    chmod 755 "$folder"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munge.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
    for gpu in 1-0 1-1 2-0 2-1; do [[ -e $folder/gpu$gpu ]] || mknod "$folder/gpu$gpu" c 1 3; done
    cat >"$folder/gres.conf" <<END
NodeName=node1 Name=gpu File=$folder/gpu1-[0-1]
NodeName=node2 Name=gpu File=$folder/gpu2-[0-1]
END
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.sock
SlurmctldPort=16827
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdSpoolDir=$folder/spool-%n
StateSaveLocation=$folder/state
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=30
MinJobAge=3600
MailProg=/bin/true
MpiDefault=none
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[16828-16829] CPUs=4 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    slurmctld
    slurmd -N node1
    slurmd -N node2
    for _ in {1..30}; do [[ $(sinfo -h -o %T) == idle ]] && return; sleep 1; done
    sinfo -R
    exit 1
}

teardown() {
    scancel --full --user=root 2>/dev/null || true
    for pid in slurmd-node1 slurmd-node2 slurmctld munge; do
        kill "$(cat "$folder/$pid.pid")" 2>/dev/null || true
    done
    [[ -n ${FOLDER-} ]] || rm -rf "$folder"
}
trap teardown EXIT

submit() { # NAME SBATCH-OPTIONS -- OPTIONS OF TRAIN: prints the job's number
    local name=$1 options=()
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    sbatch --parsable --output="$name.log" "${options[@]}" "$root/scripts/train_slurm.sh" quickstart "$@" \
        train_set="$folder/train" val_set=None visualizer=[] batch_size=32 model.type=wrn-10-1 device=cpu log_interval=20
}
short=(max_steps=4 epochs=1)
long=(epochs=10000)
field() { scontrol show job "$1" | grep -o "$2=[^ ]*" | head -1 | cut -d= -f2; }
await() { # JOB STATE SECONDS
    for ((i = 0; i < ${3:-120}; i++)); do
        [[ $(field "$1" JobState) == "$2" ]] && return
        sleep 1
    done
    echo "FAIL job $1 is $(field "$1" JobState), not $2"
    return 1
}
await_line() { # LOG TEXT COUNT SECONDS
    for ((i = 0; i < ${4:-120}; i++)); do
        found=$(grep -c -- "$2" "$1" 2>/dev/null || true)
        ((${found:-0} >= ${3:-1})) && return
        sleep 1
    done
    echo "FAIL $1 does not say '$2' ${3:-1} times"
    return 1
}
expect() { # WHAT FOUND WANTED
    if [[ $2 == "$3" ]]; then echo "  ok   $1: $2"; else
        echo "  FAIL $1: $2, not $3"
        failed=1
    fi
}
ranks() { grep -o 'on [0-9]* × cpu' "$1.log" | head -1; }
completes() { # NAME RANKS SBATCH-OPTIONS
    local name=$1 wanted=$2 job
    shift 2
    job=$(submit "$name" "$@" -- --work-dir "work/$name" --cfg-options "${short[@]}")
    await "$job" COMPLETED 180 || true
    expect "state" "$(field "$job" JobState)" COMPLETED
    expect "processes" "$(ranks "$name")" "on $wanted × cpu"
    expect "finished" "$(grep -c 'finished: step 4' "$name.log")" 1
}

cpu_only() { completes cpu_only 2 --nodes=2; }
gres() { completes gres 4 --nodes=2 --gres=gpu:2; }
gpus() { completes gpus 2 --gpus=2; }
gpus_per_node() { completes gpus_per_node 2 --nodes=2 --gpus-per-node=1; }
task_a_gpu() { completes task_a_gpu 4 --nodes=2 --ntasks-per-node=2 --gpus-per-task=1; }
task_a_rank_cpu() { completes task_a_rank_cpu 4 --ntasks=4 --nodes=2; }

time_limit() { # saved before the time limit, requeued, resumed, and stopped by the limit on restarts
    local job
    job=$(MAX_RESTARTS=1 submit time_limit --nodes=2 --time=3 --signal=TERM@80 -- --work-dir work/time_limit \
        --cfg-options "${long[@]}")
    await_line time_limit.log 'SIGTERM: saved at step' 1 200 || true
    for _ in {1..200}; do [[ $(field "$job" Restarts) == 1 ]] && break; sleep 1; done
    expect "requeued" "$(field "$job" Restarts)" 1
    await_line time_limit.log 'the maximum set by MAX_RESTARTS' 1 400 || true # it is held for about two minutes
    await "$job" FAILED 60 || true
    expect "exit status" "$(field "$job" ExitCode)" 75:0
    expect "resumed" "$(grep -c 'resumed from step-' time_limit.log)" 1
    expect "saved" "$(grep -c 'SIGTERM: saved at step' time_limit.log)" 2
}
batch_signal() { # SIGTERM to the batch script alone
    local job
    job=$(MAX_RESTARTS=0 submit batch_signal --nodes=2 --signal=B:TERM@30 -- --work-dir work/batch_signal \
        --cfg-options "${long[@]}")
    await_line batch_signal.log '  loss ' || true
    scancel --batch --signal=TERM "$job"
    await "$job" FAILED 60 || true
    expect "exit status" "$(field "$job" ExitCode)" 75:0
    expect "saved" "$(grep -c 'SIGTERM: saved at step' batch_signal.log)" 1
}
cancelled() { # scancel: saved within KillWait and not requeued; the same command then resumes
    local job
    job=$(submit cancelled --nodes=2 -- --work-dir work/cancelled --cfg-options "${long[@]}")
    await_line cancelled.log '  loss ' || true
    scancel "$job"
    await "$job" CANCELLED 60 || true
    await_line cancelled.log 'SIGTERM: saved at step' 1 40 || true
    sleep 5
    expect "state" "$(field "$job" JobState)" CANCELLED
    expect "restarts" "$(field "$job" Restarts)" 0
    expect "saved" "$(grep -c 'SIGTERM: saved at step' cancelled.log)" 1
    job=$(submit cancelled --nodes=1 --gpus=2 -- --work-dir work/cancelled --cfg-options epochs=1)
    await_line cancelled.log 'resumed from step-' 1 120 || true
    expect "resumed on one node" "$(grep -c 'resumed from step-' cancelled.log)" 1
    scancel "$job"
}
requeued() { # by an administrator or a preemption
    local job
    job=$(submit requeued --nodes=2 -- --work-dir work/requeued --cfg-options "${long[@]}" checkpoint.interval_steps=20)
    await_line requeued.log '  loss ' 3 || true
    scontrol requeue "$job"
    await_line requeued.log 'resumed from step-' 1 240 || true
    expect "resumed" "$(grep -c 'resumed from step-' requeued.log)" 1
    scancel "$job"
}
array() {
    local job
    # shellcheck disable=SC2016
    job=$(submit array --array=0-1 -- --work-dir 'work/array-$SLURM_ARRAY_TASK_ID' --cfg-options \
        'seed=$SLURM_ARRAY_TASK_ID' "${short[@]}")
    await_line array.log 'finished: step 4' 2 180 || true
    for index in 0 1; do
        expect "seed of $index" "$(grep -o '"seed": [0-9]*' "work/array-$index/config.json")" "\"seed\": $index"
    done
    scancel "$job" 2>/dev/null || true
}
error_once() { # a wrong option on two nodes of two processes: one error line, not requeued
    local job
    job=$(sbatch --parsable --output=error_once.txt --nodes=2 --gres=gpu:2 "$root/scripts/train_slurm.sh" quickstart \
        --work-dir work/error_once --cfg-options train_set=/nowhere/set)
    await "$job" FAILED 120 || true
    expect "exit status" "$(field "$job" ExitCode)" 1:0
    expect "restarts" "$(field "$job" Restarts)" 0
    expect "messages of an error" "$(grep -c 'error: /nowhere' error_once.txt)" 1
    grep -v '^srun\|^slurmstepd' error_once.txt | sed 's/^/       /'
}
startup() { # SIGTERM within the first 8 seconds: always requeued; alternates between one task per node and one per rank
    local job try delay
    for try in {0..9}; do
        job=$(submit "startup_$try" --nodes=2 --ntasks=$((2 + try % 2 * 2)) -- --work-dir "work/startup_$try" \
            --cfg-options "${long[@]}")
        for _ in {1..300}; do squeue --steps --noheader --jobs="$job" | grep -q "^ *$job\.0 " && break; sleep 0.1; done
        delay=$((try * 8 / 10)).$((RANDOM % 10))
        sleep "$delay"
        scancel --signal=TERM "$job"
        for _ in {1..60}; do
            [[ $(field "$job" Restarts) == 1 || $(field "$job" JobState) == FAILED ]] && break
            sleep 1
        done
        expect "restarts by SIGTERM after $delay s" "$(field "$job" Restarts)" 1
        # This may print nothing: after an early SIGTERM, the log has only Slurm's lines.
        { grep -v '^srun\|^slurmstepd\|  loss \|img/s' "startup_$try.log" || true; } | tail -1 | sed 's/^/       /'
        scancel "$job"
    done
}
error_on_one_node() { # while the other node starts or waits: the error's status and message, not requeued
    local job try delay wrong status
    cat >error_on_one_node.sh <<END
#!/usr/bin/env bash
((SLURM_NODEID)) && exec "$PYTHON" "\$@" "\$WRONG"
sleep "\$DELAY"
exec "$PYTHON" "\$@"
END
    chmod +x error_on_one_node.sh
    for try in '5 no_such_key=1 1' '0 no_such_key=1 1' '5 --no-such-option 2' '0 train_set=/nowhere/set 1'; do
        read -r delay wrong status <<<"$try"
        job=$(DELAY=$delay WRONG=$wrong PYTHON=$PWD/error_on_one_node.sh submit error_on_one_node --nodes=2 -- \
            --work-dir work/error_on_one_node --cfg-options "${long[@]}")
        await "$job" FAILED 120 || true
        expect "exit status of $wrong" "$(field "$job" ExitCode)" "$status:0"
        expect "restarts" "$(field "$job" Restarts)" 0
        expect "messages of an error" "$(grep -c 'train: error:' error_on_one_node.log)" 1
        mv error_on_one_node.log "error_on_one_node_$job.log"
    done
}
killed() { # a killed process or launcher ends the job on both nodes within a minute and leaves no processes
    local job kind pid
    for kind in rank launch; do
        job=$(submit "killed_$kind" --nodes=2 -- --work-dir "work/killed_$kind" --cfg-options "${long[@]}")
        await_line "killed_$kind.log" '  loss ' || true
        for pid in $(pgrep -f "python -m dali_mix.cli.$kind .*killed_$kind"); do
            tr '\0' '\n' <"/proc/$pid/environ" | grep -qx 'SLURM_NODEID=1' && kill -KILL "$pid" && break
        done
        await "$job" FAILED 60 || true
        expect "state after SIGKILL of a $kind" "$(field "$job" JobState)" FAILED
        sleep 2
        expect "processes left" "$(pgrep -fc "dali_mix.cli.*killed_$kind" || true)" 0
        grep -v '^srun\|^slurmstepd\|  loss \|img/s' "killed_$kind.log" | tail -3 | sed 's/^/       /'
    done
}

failed=0
setup
"$PYTHON" -m dali_mix pack digits --split train --out "$folder/train" --quiet --force >/dev/null
scenarios=("$@")
if ((!$#)); then
    scenarios=(cpu_only gres gpus gpus_per_node task_a_gpu task_a_rank_cpu array error_once error_on_one_node startup
        cancelled batch_signal killed requeued time_limit)
fi
for scenario in "${scenarios[@]}"; do
    echo "$scenario"
    "$scenario"
done
((failed)) && echo "FAILED" || echo "all hold"
exit "$failed"
