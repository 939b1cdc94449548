#!/bin/sh
# Enrol this node, once, and run it. Its keys are made here, on its own volume, and never leave it.
#
#   NAME, ADDRESS   who it is, and HOST:PORT where the others reach it
#   ACP_HOME        where its home is to be (/var/lib/acp/home)
#   ACP_INBOX       folder in which invitation.json and NAME.bundle.json appear (/exchange)
#   ACP_OUTBOX      folder that its request is copied to, if it is given
#   ACP_POLICY      how it votes (manual)
#   ACP_MAY_VOTE    names whose client certificates may have it vote (nobody: acp vote --home in its container)
#   ACP_METRICS     HOST:PORT where it serves metrics and health in plain HTTP (nowhere)
#
# With the argument "enrol" it only enrols.
set -eu

home=${ACP_HOME:-/var/lib/acp/home}
inbox=${ACP_INBOX:-/exchange}

wait_for() {
    [ -s "$1" ] || echo "waiting for $1" >&2
    until [ -s "$1" ]; do sleep 1; done
}

if [ ! -f "$home/config.toml" ]; then
    if [ ! -f "$home/$NAME.join.json" ]; then
        wait_for "$inbox/invitation.json"
        rm -rf "$home" # of a try that did not come to its end: without a request, nobody has seen its key
        acp enrol key "$home" --name "$NAME" --address "$ADDRESS" --invitation "$inbox/invitation.json"
    fi
    if [ -n "${ACP_OUTBOX:-}" ]; then
        cp "$home/$NAME.join.json" "$ACP_OUTBOX/$NAME.join.json.part"
        mv "$ACP_OUTBOX/$NAME.join.json.part" "$ACP_OUTBOX/$NAME.join.json"
    fi
    wait_for "$inbox/$NAME.bundle.json"
    names=
    for name in ${ACP_MAY_VOTE:-}; do names="$names --may-vote $name"; done
    # shellcheck disable=SC2086 # names have no spaces in them
    acp enrol home "$home" "$inbox/$NAME.bundle.json" --policy "${ACP_POLICY:-manual}" $names \
        ${ACP_METRICS:+--metrics "$ACP_METRICS"}
fi
[ "${1:-run}" = enrol ] || exec acp node --home "$home"
