#!/usr/bin/env bash
# NNI's remote training service tried for real: an sshd of our own on 127.0.0.1 plays the machine.
#
#   bash benchmarks/nni_remote.sh        # about a minute; needs openssh-server and openssh-client
#
# Starts sshd with a fresh key, uploads this project through NNI, trains two trials of delegate_nano
# on the tests' tiny data set at the same time, prints their states and run folders, stops all.
# Not in the test suite: NNI runs `pip install --upgrade nni` on the machine, which needs a network.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
work=$(mktemp -d /tmp/nni-remote-XXXXXX)
nni_port=8123 ssh_port=22022 experiment=

finish() {
    HOME=$work .venv/bin/nnictl stop --port $nni_port || true
    if [[ -f $work/sshd.pid ]]; then kill "$(cat "$work/sshd.pid")"; fi
    # NNI works in the account's own home on the machine.
    if [[ -n $experiment ]]; then rm -rf ~/nni-experiments/"$experiment"; fi
    rm -rf "$work"
}
trap finish EXIT

ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
cat >"$work/sshd_config" <<END
Port $ssh_port
ListenAddress 127.0.0.1
HostKey $work/host_key
PidFile $work/sshd.pid
AuthorizedKeysFile $work/key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
END
mkdir -p /run/sshd
"$(command -v sshd || echo /usr/sbin/sshd)" -f "$work/sshd_config" -E "$work/sshd.log"

flags=$(PYTHONPATH=tests "$python" -c '
import pathlib, shlex, sys, tiny
print(shlex.join(tiny.write_tiny_dataset(pathlib.Path(sys.argv[1]))))' "$work/data")
cat >"$work/remote.yml" <<END
experimentName: remote-over-ssh
searchSpace:
  lr: {_type: choice, _value: [0.0005, 0.001]}
trialCodeDirectory: $PWD
trialCommand: $python train_nni.py $flags --epochs 1
trialConcurrency: 2
maxTrialNumber: 2
nniManagerIp: 127.0.0.1
experimentWorkingDirectory: $work/experiments
tuner: {name: GridSearch}
trainingService:
  platform: remote
  reuseMode: false
  machineList:
    - host: 127.0.0.1
      port: $ssh_port
      user: $(id -un)
      sshKeyFile: $work/key
      pythonPath: $(dirname "$python")
END
started=$SECONDS
HOME=$work .venv/bin/nnictl create --config "$work/remote.yml" --port $nni_port
api=http://127.0.0.1:$nni_port/api/v1/nni
experiment=$(curl -sf $api/experiment | "$python" -c 'import json, sys; print(json.load(sys.stdin)["id"])')
until curl -sf $api/check-status | grep -qE 'DONE|"ERROR"'; do
    if ((SECONDS - started > 300)); then echo "not done after 300 s" >&2; exit 1; fi
    sleep 1
done
echo "done after $((SECONDS - started)) s"
curl -sf $api/trial-jobs | "$python" -c '
import json, sys
trials = json.load(sys.stdin)
for trial in trials:
    metrics = [json.loads(m["data"]) for m in trial.get("finalMetricData", [])]
    print(trial["trialJobId"], trial["status"], *metrics)
sys.exit(any(trial["status"] != "SUCCEEDED" for trial in trials))'
ls -d ~/nni-experiments/"$experiment"/environments/*/upload/trial_code/runs/nni/"$experiment"/*
