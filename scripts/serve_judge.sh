#!/usr/bin/env bash
# A judge on this machine's GPUs: makes an environment for vLLM, serves a model, and prints the address for a recipe.
#
#   bash scripts/serve_judge.sh MODEL [--port 8000] [--gpus 1] [--env DIR] [--name NAME] [--dry-run] [-- OPTIONS OF `vllm serve`]
#
# MODEL is a Hub name or a folder. It listens on this machine alone unless --host says otherwise; set JUDGE_API_KEY to ask every
# request for that key (and name the variable in the recipe: api_key_env: JUDGE_API_KEY). The environment (default ~/.cache/unmask/vllm)
# is made once, from requirements/vllm.txt. --dry-run prints what would be done. The server runs until Ctrl-C.
# Not run here with a model: this repository was built on a machine without a GPU.
set -euo pipefail

usage() {
  sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//' >&2
  exit 2
}

host=127.0.0.1
port=8000
gpus=1
env_dir="${XDG_CACHE_HOME:-$HOME/.cache}/unmask/vllm"
model=
name=
dry_run=false
more=()
while [ $# -gt 0 ]; do
  case $1 in
    --port | --gpus | --env | --name | --host)
      [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; usage; }
      case $1 in
        --port) port=$2 ;;
        --gpus) gpus=$2 ;;
        --env) env_dir=$2 ;;
        --name) name=$2 ;;
        --host) host=$2 ;;
      esac
      shift 2
      ;;
    --dry-run) dry_run=true; shift ;;
    --) shift; more=("$@"); break ;;
    -h | --help) usage ;;
    -*) echo "error: there is no option $1; options of vllm serve stand after --" >&2; usage ;;
    *)
      [ -z "$model" ] || { echo "error: one model at a time, not $model and $1" >&2; usage; }
      model=$1
      shift
      ;;
  esac
done
[ -n "$model" ] || usage
for number in "$port" "$gpus"; do
  [[ $number =~ ^[0-9]+$ ]] || { echo "error: --port and --gpus take whole numbers, not $number" >&2; exit 2; }
done

requirements=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/requirements/vllm.txt
[ -f "$requirements" ] || { echo "error: there is no $requirements; run this from a checkout of unmask" >&2; exit 2; }
name=${name:-$model}
serve=("$env_dir/bin/vllm" serve "$model" --host "$host" --port "$port" --tensor-parallel-size "$gpus" --served-model-name "$name" "${more[@]}")

say() { # a command as it could be typed
  printf '+'
  printf ' %q' "$@"
  printf '\n'
}
act() {
  say "$@"
  $dry_run || "$@"
}

# One file marks an environment that is whole and made from these requirements.
mark="$env_dir/unmask-requirements.txt"
if ! cmp -s "$requirements" "$mark"; then
  if [ -n "$(ls -A "$env_dir" 2>/dev/null)" ] && [ ! -f "$env_dir/pyvenv.cfg" ]; then
    echo "error: $env_dir holds other files; name a folder for the environment with --env" >&2
    exit 2
  fi
  act "${PYTHON:-python3}" -m venv --clear "$env_dir"
  act "$env_dir/bin/python" -m pip install --quiet --requirement "$requirements"
  act cp "$requirements" "$mark"
fi

reach=$host
[ "$host" = 0.0.0.0 ] && reach=$(hostname)
cat <<END
In a recipe, once the server says that it has started:
  rewards:
    - fn: judge.rubric
      kwargs: {base_url: "http://$reach:$port/v1", model: "$name"$([ -z "${JUDGE_API_KEY:-}" ] || printf ', api_key_env: JUDGE_API_KEY')}
END
# vLLM reads the key from its environment: an option would show it to everyone who lists processes.
if [ -n "${JUDGE_API_KEY:-}" ]; then
  export VLLM_API_KEY=$JUDGE_API_KEY
fi
say "${serve[@]}"
$dry_run || exec "${serve[@]}"
