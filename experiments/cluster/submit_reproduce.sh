#!/usr/bin/env bash
# A table or figure of the article as a SLURM array: a task, on one GPU, for every run that is not finished.
#   experiments/cluster/submit_reproduce.sh table1 --data.root DIR --trainer.precision bf16-mixed
# Options are those of `reproduce`. sbatch takes its own from the environment:
#   SBATCH_PARTITION=gpu SBATCH_ACCOUNT=lab SBATCH_TIMELIMIT=8:00:00 experiments/cluster/submit_reproduce.sh ...
# Again, after the array has ended: submits what failed. When nothing is left, it submits the report as one task, which
# also computes the pruning curves of Fig. 5.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

mkdir -p runs/slurm
commands=$(mktemp "runs/slurm/${1:?what to reproduce, for example table1}-XXXXXX")
python -m acnet_pl reproduce "$@" --list > "$commands"
count=$(wc -l < "$commands")
if ((count == 0)); then
  printf '%q ' python -m acnet_pl reproduce "$@" > "$commands"
  count=1
fi
sbatch --array="1-$count" "$here/run_line.sbatch" "$commands"
