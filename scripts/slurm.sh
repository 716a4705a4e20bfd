#!/bin/bash
# One run on several machines under Slurm: Ray on each, then `unmask train` on the first.
#
#   sbatch --nodes 2 --gpus-per-node 8 --cpus-per-task 64 scripts/slurm.sh RECIPE cluster.learners=16 cluster.samplers=16 [KEY.PATH=VALUE]...
#
# Needs unmask[cluster] on every machine under the same path, and a shared file system for model and run folder.
# Not run here: this repository was built on a machine without Slurm.
#SBATCH --job-name=unmask
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: sbatch --nodes N --gpus-per-node G scripts/slurm.sh RECIPE [KEY.PATH=VALUE]..." >&2
  exit 2
fi
port=${RAY_PORT:-6379}
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${machines[0]}
# Ray must be gone with the job, whatever ends it.
trap 'srun --overlap --ntasks="$SLURM_NNODES" --ntasks-per-node=1 ray stop --force || true' EXIT

srun --overlap --nodes=1 --ntasks=1 -w "$first" ray start --head --port "$port" --disable-usage-stats
for machine in "${machines[@]:1}"; do
  srun --overlap --nodes=1 --ntasks=1 -w "$machine" ray start --address "$first:$port" --disable-usage-stats
done
srun --overlap --nodes=1 --ntasks=1 -w "$first" unmask train "$@" cluster.backend=ray "cluster.address=$first:$port" --resume auto
