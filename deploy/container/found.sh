#!/bin/sh
# Found the cluster: invite, wait for the requests of all nodes, sign. Only public files pass through the exchange.
#
#   NODES           names of the nodes, separated by blanks
#   ACP_AUTHORITY   where the authority's folder is to be (/var/lib/acp/authority)
#   ACP_EXCHANGE    folder that is shared with the nodes (/exchange)
#
# It signs whatever request bears a node's name, so nobody else may write to the exchange. Where that is not so, run
# `acp enrol genesis` by hand, and compare the digests.
set -eu

authority=${ACP_AUTHORITY:-/var/lib/acp/authority}
exchange=${ACP_EXCHANGE:-/exchange}

publish() {
    cp "$1" "$exchange/${1##*/}.part"
    mv "$exchange/${1##*/}.part" "$exchange/${1##*/}"
}

[ -f "$authority/invitation.json" ] || acp enrol invite "$authority"
publish "$authority/invitation.json"
if [ ! -f "$authority/genesis.json" ]; then
    set --
    for node in $NODES; do
        until [ -s "$exchange/$node.join.json" ]; do sleep 1; done
        set -- "$@" "$exchange/$node.join.json"
    done
    acp enrol genesis --authority "$authority" "$@"
fi
for node in $NODES; do publish "$authority/bundles/$node.bundle.json"; done
